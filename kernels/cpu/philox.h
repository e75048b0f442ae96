// Counter-based randomness: Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3" (SC 2011), and the noise of the race that draws tokens with it. A
// draw is a pure function of what it is for, so that it does not depend on batches, rounds, drafts
// or threads.

#ifndef MAMBAD_KERNELS_CPU_PHILOX_H_
#define MAMBAD_KERNELS_CPU_PHILOX_H_

#include <array>
#include <cmath>
#include <cstdint>

namespace mambad::kernels {

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53, kPhiloxMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9;  // golden ratio
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85;  // sqrt(3) - 1
constexpr int kPhiloxRounds = 10;

inline std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * counter[0];
    const uint64_t product1 = uint64_t{kPhiloxMultiplier1} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kPhiloxWeyl0;
    key[1] += kPhiloxWeyl1;
  }
  return counter;
}

// Names one draw: the token at `position` of sample `sample` of a request with `seed`.
struct RaceDraw {
  uint64_t seed = 0;
  uint32_t position = 0, sample = 0;
};

// The random words of ids 4 group .. 4 group + 3.
inline std::array<uint32_t, 4> RaceWords(const RaceDraw& draw, uint32_t group) {
  return Philox4x32({group, draw.position, draw.sample, 0},
                    {static_cast<uint32_t>(draw.seed), static_cast<uint32_t>(draw.seed >> 32)});
}

// When an id whose word is `word` and whose weight is `weight` > 0 arrives: exponentially
// distributed with rate `weight`, since (word + 1/2) / 2^32 is uniform in (0, 1). Never less than
// that uniform number / weight.
inline double ArrivalTime(uint32_t word, float weight) {
  return -std::log1p(-(static_cast<double>(word) + 0.5) * 0x1p-32) / static_cast<double>(weight);
}

// The same of one id by its name.
inline double ArrivalTime(const RaceDraw& draw, int32_t id, float weight) {
  return ArrivalTime(RaceWords(draw, static_cast<uint32_t>(id / 4))[id % 4], weight);
}

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_PHILOX_H_
