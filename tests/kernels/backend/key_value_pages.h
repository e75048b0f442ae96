// Pages of keys and values for the slots of a test, shuffled, and a look into them by position. The
// one place of these tests that knows how a page is laid out.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_KEY_VALUE_PAGES_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_KEY_VALUE_PAGES_H_

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/reference.h"

namespace mambad::kernels {

class KeyValuePages {
 public:
  // All of them NaN. `heads` 0: there are none.
  KeyValuePages(Backend& backend, int heads, int head_width, int slots, int pages_per_sequence,
                std::mt19937& random)
      : heads_(heads),
        width_(head_width),
        pages_per_sequence_(pages_per_sequence),
        page_floats_(int64_t{heads} * head_width * kPageTokens),
        numbers_(slots * pages_per_sequence),
        keys_(backend, Row(slots * pages_per_sequence * page_floats_, kNaN)),
        values_(backend, Row(slots * pages_per_sequence * page_floats_, kNaN)),
        table_(backend, Shuffled(random)) {}

  KeyValueState state() const { return {keys_.data(), values_.data()}; }
  const int32_t* table() const { return table_.data(); }
  int pages_per_sequence() const { return pages_per_sequence_; }

  // Keys of positions [0, count), then their values.
  Row Read(int slot, int count) const {
    Row result;
    for (const bool keys : {true, false}) {
      for (int position = 0; position < count; position += kPageTokens) {
        Row page = ReadPage(keys, slot, position);
        for (int token = 0; token < std::min(kPageTokens, count - position); ++token) {
          ForEach(page, keys, token, [&](float& value) { result.push_back(value); });
        }
      }
    }
    return result;
  }

  // Positions [begin, end) become NaN.
  void Poison(int slot, int begin, int end) {
    if (heads_ == 0) return;
    end = std::min(end, pages_per_sequence_ * kPageTokens);
    for (const bool keys : {true, false}) {
      for (int first = begin / kPageTokens * kPageTokens; first < end; first += kPageTokens) {
        Row page = ReadPage(keys, slot, first);
        for (int p = std::max(begin, first); p < std::min(end, first + kPageTokens); ++p) {
          ForEach(page, keys, p - first, [](float& value) { value = kNaN; });
        }
        (keys ? keys_ : values_).Write(page, PageBegin(slot, first));
      }
    }
  }

 private:
  std::vector<int32_t> Shuffled(std::mt19937& random) {
    std::iota(numbers_.begin(), numbers_.end(), 0);
    std::shuffle(numbers_.begin(), numbers_.end(), random);
    return numbers_;
  }

  int64_t PageBegin(int slot, int position) const {
    return numbers_[slot * pages_per_sequence_ + position / kPageTokens] * page_floats_;
  }
  Row ReadPage(bool keys, int slot, int position) const {
    return (keys ? keys_ : values_).Read(PageBegin(slot, position), page_floats_);
  }

  // keys [K][hd][kPageTokens], values [K][kPageTokens][hd]
  template <typename Visit>
  void ForEach(Row& page, bool keys, int token, const Visit& visit) const {
    for (int head = 0; head < heads_; ++head) {
      float* const part = page.data() + int64_t{head} * width_ * kPageTokens;
      for (int i = 0; i < width_; ++i) {
        visit(part[keys ? i * kPageTokens + token : token * width_ + i]);
      }
    }
  }

  int heads_, width_, pages_per_sequence_;
  int64_t page_floats_;
  std::vector<int32_t> numbers_;  // [slots, pages_per_sequence]
  DeviceArray<float> keys_, values_;
  DeviceArray<int32_t> table_;
};

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_KEY_VALUE_PAGES_H_
