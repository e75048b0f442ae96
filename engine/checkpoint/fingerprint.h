// Tells models apart by 256 bits.

#ifndef MAMBAD_ENGINE_CHECKPOINT_FINGERPRINT_H_
#define MAMBAD_ENGINE_CHECKPOINT_FINGERPRINT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/types/span.h"

namespace mambad::checkpoint {

// Four sums in the manner of FNV-1a, each with a beginning and a multiplier of its own. Not against
// somebody who wants two models to look alike.
class Fingerprint {
 public:
  void Add(absl::Span<const std::byte> bytes) {
    for (const std::byte byte : bytes) {
      for (size_t lane = 0; lane < 4; ++lane) {
        sums_[lane] = (sums_[lane] ^ static_cast<uint8_t>(byte)) * kMultipliers[lane];
      }
    }
    Mix(bytes.size());
  }
  void Add(const std::string& text) {
    Add({reinterpret_cast<const std::byte*>(text.data()), text.size()});
  }
  // 64 hexadecimal digits.
  std::string Digits() const {
    return absl::StrFormat("%016x%016x%016x%016x", sums_[0], sums_[1], sums_[2], sums_[3]);
  }

 private:
  static constexpr uint64_t kMultipliers[4] = {0x100000001b3ull, 0x9e3779b97f4a7c15ull,
                                               0xc2b2ae3d27d4eb4full, 0xff51afd7ed558ccdull};
  // Ends a piece, so that pieces cannot run into each other unseen; brings high bits down.
  void Mix(uint64_t size) {
    for (size_t lane = 0; lane < 4; ++lane) {
      sums_[lane] = (sums_[lane] ^ size) * kMultipliers[lane];
      sums_[lane] ^= sums_[lane] >> 29;
    }
  }

  uint64_t sums_[4] = {0xcbf29ce484222325ull, 0x9ae16a3b2f90404full, 0xc3a5c85c97cb3127ull,
                       0xb492b66fbe98f273ull};
};

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_FINGERPRINT_H_
