// Counter-based randomness: Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3" (SC 2011). A draw is a pure function of what it is for, so that it
// does not depend on batches, rounds or threads.

#ifndef MAMBAD_KERNELS_CPU_PHILOX_H_
#define MAMBAD_KERNELS_CPU_PHILOX_H_

#include <array>
#include <cstdint>

namespace mambad::kernels {

// What a draw decides about the token of one position. The token after the last accepted draft has
// one purpose whether it corrects a rejected draft, follows an accepted one or is decoded without
// drafts.
enum class DrawPurpose : uint32_t { kDraft = 0, kAccept = 1, kToken = 2 };

inline std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9;  // golden ratio
    key[1] += 0xBB67AE85;  // sqrt(3) - 1
  }
  return counter;
}

// Uniform in [0, 1), 53 bits. Key: seed; counter: (position, purpose).
inline double UniformDraw(uint64_t seed, int64_t position, DrawPurpose purpose) {
  const auto at = static_cast<uint64_t>(position);
  const std::array<uint32_t, 4> words =
      Philox4x32({static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32),
                  static_cast<uint32_t>(purpose), 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<double>((uint64_t{words[0]} << 32 | words[1]) >> 11) * 0x1p-53;
}

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_PHILOX_H_
