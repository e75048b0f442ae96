// Pages of keys and values for the slots of a test, shuffled. How a page is laid out is the
// backend's own: only whole pages are looked at.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_KEY_VALUE_PAGES_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_KEY_VALUE_PAGES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/backend/device_array.h"

namespace mambad::kernels {

class KeyValuePages {
 public:
  // All of them poisoned. `layout.key_bytes` 0: there are none.
  KeyValuePages(Backend& backend, const KeyValueLayout& layout, int slots, int pages_per_sequence,
                std::mt19937& random)
      : layout_(layout),
        pages_per_sequence_(pages_per_sequence),
        numbers_(slots * pages_per_sequence),
        keys_(backend, Poisoned(slots * pages_per_sequence * layout.key_bytes)),
        values_(backend, Poisoned(slots * pages_per_sequence * layout.value_bytes)),
        table_(backend, Shuffled(random)) {}

  KeyValueState state() const { return {keys_.data(), values_.data(), layout_}; }
  const int32_t* table() const { return table_.data(); }
  int pages_per_sequence() const { return pages_per_sequence_; }

  // The pages that the first `count` positions of a sequence fill.
  std::vector<std::byte> FullPages(int slot, int count) const {
    std::vector<std::byte> all;
    for (int page = 0; page < count / kPageTokens && layout_.key_bytes > 0; ++page) {
      const int64_t number = Number(slot, page);
      for (const auto& part : {keys_.Read(number * layout_.key_bytes, layout_.key_bytes),
                               values_.Read(number * layout_.value_bytes, layout_.value_bytes)}) {
        all.insert(all.end(), part.begin(), part.end());
      }
    }
    return all;
  }

  // The next pages that hold nothing of the first `count` positions.
  void Poison(int slot, int count) {
    if (layout_.key_bytes == 0) return;
    const int first = (count + kPageTokens - 1) / kPageTokens;
    for (int page = first; page < std::min(first + 3, pages_per_sequence_); ++page) {
      keys_.Write(Poisoned(layout_.key_bytes), Number(slot, page) * layout_.key_bytes);
      values_.Write(Poisoned(layout_.value_bytes), Number(slot, page) * layout_.value_bytes);
    }
  }

 private:
  // Not numbers of any type.
  static std::vector<std::byte> Poisoned(int64_t bytes) {
    return std::vector<std::byte>(bytes, std::byte{0xff});
  }
  std::vector<int32_t> Shuffled(std::mt19937& random) {
    std::iota(numbers_.begin(), numbers_.end(), 0);
    std::shuffle(numbers_.begin(), numbers_.end(), random);
    return numbers_;
  }
  int64_t Number(int slot, int page) const { return numbers_[slot * pages_per_sequence_ + page]; }

  KeyValueLayout layout_;
  int pages_per_sequence_;
  std::vector<int32_t> numbers_;  // [slots, pages_per_sequence]
  DeviceArray<std::byte> keys_, values_;
  DeviceArray<int32_t> table_;
};

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_KEY_VALUE_PAGES_H_
