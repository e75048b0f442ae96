// Counter-based randomness on the device: the twin of kernels/cpu/philox.h, word for word, and the
// noise of the race that draws tokens with it.

#ifndef MAMBAD_KERNELS_CUDA_PHILOX_CUH_
#define MAMBAD_KERNELS_CUDA_PHILOX_CUH_

#include <cstdint>

namespace mambad::kernels::cuda {

// Names one draw: the token at `position` of sample `sample` of a request with `seed`.
struct RaceDraw {
  uint64_t seed = 0;
  uint32_t position = 0, sample = 0;
};

// The random words of ids 4 group .. 4 group + 3: Philox4x32-10.
__device__ inline void RaceWords(const RaceDraw& draw, uint32_t group, uint32_t (&words)[4]) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  constexpr int kRounds = 10;
  uint32_t c0 = group, c1 = draw.position, c2 = draw.sample, c3 = 0;
  uint32_t key0 = static_cast<uint32_t>(draw.seed), key1 = static_cast<uint32_t>(draw.seed >> 32);
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const uint32_t high0 = __umulhi(kMultiplier0, c0), low0 = kMultiplier0 * c0;
    const uint32_t high1 = __umulhi(kMultiplier1, c2), low1 = kMultiplier1 * c2;
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

// When an id whose word is `word` and whose weight is `weight` > 0 arrives: exponentially
// distributed with rate `weight`, since (word + 1/2) / 2^32 is uniform in (0, 1). Never less than
// that uniform number / weight.
__device__ inline double ArrivalTime(uint32_t word, float weight) {
  return -log1p(-(static_cast<double>(word) + 0.5) * 0x1p-32) / static_cast<double>(weight);
}

// The same of one id by its name.
__device__ inline double ArrivalTime(const RaceDraw& draw, int32_t id, float weight) {
  uint32_t words[4];
  RaceWords(draw, static_cast<uint32_t>(id) / 4, words);
  const int at = id % 4;
  return ArrivalTime(at == 0   ? words[0]
                     : at == 1 ? words[1]
                     : at == 2 ? words[2]
                               : words[3],
                     weight);
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PHILOX_CUH_
