// The race that picks a token, on the device; kernels/backend.h (SamplingState) says its rule.

#ifndef MAMBAD_KERNELS_CUDA_TOKEN_RACE_CUH_
#define MAMBAD_KERNELS_CUDA_TOKEN_RACE_CUH_

#include <climits>
#include <cmath>
#include <cstdint>

#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/token_distribution.cuh"

namespace mambad::kernels::cuda {

// Who arrived first so far; of two at the same time the lower id. No result depends on the order in
// which leaders meet.
struct RaceLeader {
  double time;
  int32_t id;

  __device__ static RaceLeader Nobody() { return {INFINITY, INT_MAX}; }
  __device__ void Meet(const RaceLeader& other) {
    if (other.time < time || (other.time == time && other.id < id)) *this = other;
  }
};

__device__ inline RaceLeader WarpFirst(RaceLeader leader) {
#pragma unroll
  for (int offset = kWarpLanes / 2; offset > 0; offset /= 2) {
    leader.Meet({__shfl_xor_sync(kWholeWarp, leader.time, offset),
                 __shfl_xor_sync(kWholeWarp, leader.id, offset)});
  }
  return leader;
}

// Which ids race, and with what noise.
struct TokenRace {
  Weights weights;
  float least_weight = 0;   // what min_p leaves; the likeliest id weighs 1
  uint64_t least_rank = 0;  // what top_k and top_p leave
  RaceDraw draw;

  // Lets `leader` be the first of itself and the ids of one group. An id arrives no sooner than its
  // uniform number / weight, so that nearly all are dismissed without a logarithm, and whole groups
  // of light ids without noise.
  __device__ void Run(const AdjustedLogits& row, int group, RaceLeader* leader) const {
    float x[kGroupIds], weight[kGroupIds], heaviest = 0;
    row.Load(group, x);
#pragma unroll
    for (int i = 0; i < kGroupIds; ++i) {
      weight[i] = weights.Of(x[i]);
      const bool left = weight[i] >= least_weight &&
                        (least_rank == 0 || RankOf(x[i], group * kGroupIds + i) >= least_rank);
      if (!left) weight[i] = 0;
      heaviest = fmaxf(heaviest, weight[i]);
    }
    float bound = BoundOf(leader->time);
    if (!(heaviest > 0) || heaviest * bound < 0x1p-33f) return;
    uint32_t words[kGroupIds];
    RaceWords(draw, static_cast<uint32_t>(group), words);
#pragma unroll
    for (int i = 0; i < kGroupIds; ++i) {
      const float uniform = static_cast<float>(words[i] >> 1) * 0x1p-31f;
      if (!(weight[i] > 0) || uniform > weight[i] * bound) continue;
      leader->Meet({ArrivalTime(words[i], weight[i]), group * kGroupIds + i});
      bound = BoundOf(leader->time);
    }
  }

 private:
  // Wider than rounding, so that nothing is dismissed that would have won.
  __device__ static float BoundOf(double time) { return static_cast<float>(time * (1 + 1e-5)); }
};

// The race of a row in which nothing is possible: the lowest id that neither bias nor masks forbid,
// else that bias does not forbid, else 0.
__device__ inline void RunFallback(const AdjustedLogits& row, int group, RaceLeader* leader) {
  for (int id = group * kGroupIds; id < min((group + 1) * kGroupIds, row.vocabulary); ++id) {
    const bool forbidden = row.bias != nullptr && !(row.bias[id] > Impossible());
    leader->Meet({forbidden ? 2.0 : row.IsMaskedStop(id) ? 1.0 : 0.0, id});
  }
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TOKEN_RACE_CUH_
