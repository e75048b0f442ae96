// Private to attention on tensor cores: a warp's sums over the keys and values of a step.

#ifndef MAMBAD_KERNELS_CUDA_ATTENTION_SUMS_CUH_
#define MAMBAD_KERNELS_CUDA_ATTENTION_SUMS_CUH_

#include <climits>
#include <cmath>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {

inline constexpr int kStep = 64;  // positions
inline constexpr int kKeyTiles = kStep / 8;
static_assert(kStretch % kStep == 0 && kStep % kPageTokens == 0, "steps are whole pages");

// One query: what it is of, and the positions that it sees; none where there is no such query.
struct Query {
  int row = -1, head = 0;  // row -1: there is none
  int oldest = INT_MAX, newest = -1;

  __device__ bool Sees(int begin, int end) const { return oldest < end && newest >= begin; }
};

// ---- numbers ------------------------------------------------------------------------------------

// Four matrices of 8 x 8 halves from shared memory, a row's address from each lane; of lane l the
// numbers of row l / 4, columns 2 (l % 4) and the next.
__device__ __forceinline__ uint4 LoadHalves(const uint16_t* from) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from)))
               : "memory");
  return v;
}
// The same, each matrix transposed.
__device__ __forceinline__ uint4 LoadHalvesTransposed(const uint16_t* from) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from)))
               : "memory");
  return v;
}

// Two numbers as high halves and what is left of them.
__device__ __forceinline__ void Split(float first, float second, uint32_t& high, uint32_t& low) {
  high = RoundPair(first, second);
  low =
      RoundPair(first - __uint_as_float(high << 16), second - __uint_as_float(high & 0xffff0000u));
}

// Where 16 bytes of a row of halves lie: neighbouring rows' in different banks.
template <int kWidth>
__device__ __forceinline__ int Place(int row, int chunk) {
  return row * kWidth + ((chunk ^ (row & 7)) * 8);
}

// ---- a warp's sums ------------------------------------------------------------------------------

// Of lane l: rows l / 4 and l / 4 + 8 of the warp's queries, columns 8 j + 2 (l % 4) and the next
// of those that the warp has. `weights` is of this lane's keys until a stretch is done.
template <int kTiles>
struct RowSums {
  float maximum[2] = {-INFINITY, -INFINITY}, weights[2] = {0, 0};
  float sum[kTiles][4] = {};
};

// Scores of 16 kPairs of a step's keys, from `keys` on: sums[j] those of keys 8 j ...
template <int kWidth, int kPairs>
__device__ __forceinline__ void Score(const uint16_t* high, const uint16_t* low,
                                      const uint16_t* keys, float (&sums)[2 * kPairs][4]) {
  const int lane = threadIdx.x % kWarp, matrix = lane / 8, line = lane % 8;
#pragma unroll 2
  for (int k = 0; k < kWidth / 16; ++k) {
    const int place = Place<kWidth>(line + 8 * (matrix & 1), 2 * k + matrix / 2);
    const uint4 high_queries = LoadHalves(high + place), low_queries = LoadHalves(low + place);
    uint4 pair[kPairs];
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      pair[j] =
          LoadHalves(keys + Place<kWidth>(16 * j + 8 * (matrix / 2) + line, 2 * k + (matrix & 1)));
    }
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      MultiplyAdd(high_queries, {pair[j].x, pair[j].y}, sums[2 * j]);
      MultiplyAdd(high_queries, {pair[j].z, pair[j].w}, sums[2 * j + 1]);
    }
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      MultiplyAdd(low_queries, {pair[j].x, pair[j].y}, sums[2 * j]);
      MultiplyAdd(low_queries, {pair[j].z, pair[j].w}, sums[2 * j + 1]);
    }
  }
}

// Scores become weights against the running maximum, and what was summed so far is scaled to it.
template <int kTiles>
__device__ __forceinline__ void Weigh(float scale, const Query (&query)[2], int step,
                                      float (&scores)[kKeyTiles][4], RowSums<kTiles>& part) {
  const int first = step + 2 * (threadIdx.x % 4);
  float highest[2] = {part.maximum[0], part.maximum[1]};
#pragma unroll
  for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int position = first + 8 * j + (i & 1);
      const bool seen = position >= query[i / 2].oldest && position <= query[i / 2].newest;
      scores[j][i] = seen ? scores[j][i] * scale : -INFINITY;
      highest[i / 2] = fmaxf(highest[i / 2], scores[j][i]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    highest[half] = fmaxf(highest[half], __shfl_xor_sync(kAllLanes, highest[half], 1));
    highest[half] = fmaxf(highest[half], __shfl_xor_sync(kAllLanes, highest[half], 2));
    const float against = highest[half] == -INFINITY ? 0.0f : highest[half];
    const float correction = exp2f(part.maximum[half] - against);
    part.maximum[half] = highest[half];
    float weights = part.weights[half] * correction;
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[j][i] = exp2f(scores[j][i] - against);
        weights += scores[j][i];
      }
    }
    part.weights[half] = weights;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      part.sum[j][2 * half] *= correction;
      part.sum[j][2 * half + 1] *= correction;
    }
  }
}

// Adds weight * value over the step's keys, 16 by 16, for columns from 8 first on.
template <int kWidth, int kTiles>
__device__ __forceinline__ void AddValues(const float (&weights)[kKeyTiles][4],
                                          const uint16_t* values, int first,
                                          RowSums<kTiles>& part) {
  const int lane = threadIdx.x % kWarp, matrix = lane / 8, line = lane % 8;
#pragma unroll
  for (int k = 0; k < kStep / 16; ++k) {
    const float(&left)[4] = weights[2 * k], (&right)[4] = weights[2 * k + 1];
    uint4 high, low;
    Split(left[0], left[1], high.x, low.x);
    Split(left[2], left[3], high.y, low.y);
    Split(right[0], right[1], high.z, low.z);
    Split(right[2], right[3], high.w, low.w);
#pragma unroll
    for (int j = 0; j < kTiles; j += 2) {
      const uint4 pair = LoadHalvesTransposed(
          values + Place<kWidth>(16 * k + 8 * (matrix & 1) + line, first + j + matrix / 2));
      MultiplyAdd(high, {pair.x, pair.y}, part.sum[j]);
      MultiplyAdd(high, {pair.z, pair.w}, part.sum[j + 1]);
      MultiplyAdd(low, {pair.x, pair.y}, part.sum[j]);
      MultiplyAdd(low, {pair.z, pair.w}, part.sum[j + 1]);
    }
  }
}

// A stretch is done: lanes of a row know the sum of its weights.
template <int kTiles>
__device__ __forceinline__ void SumWeights(RowSums<kTiles>& part) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    part.weights[half] += __shfl_xor_sync(kAllLanes, part.weights[half], 1);
    part.weights[half] += __shfl_xor_sync(kAllLanes, part.weights[half], 2);
  }
}

// What a stretch gave joins what those before it gave, of rows that see some of it.
template <int kTiles>
__device__ __forceinline__ void Merge(const Query (&query)[2], int stretch,
                                      const RowSums<kTiles>& part, RowSums<kTiles>& whole) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (!query[half].Sees(stretch * kStretch, (stretch + 1) * kStretch)) continue;
    const float highest = fmaxf(whole.maximum[half], part.maximum[half]);
    const float mine = exp2f(whole.maximum[half] - highest);
    const float its = exp2f(part.maximum[half] - highest);
    whole.maximum[half] = highest;
    whole.weights[half] = fmaf(part.weights[half], its, whole.weights[half] * mine);
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        whole.sum[j][i] = fmaf(part.sum[j][i], its, whole.sum[j][i] * mine);
      }
    }
  }
}

// A lane's columns of one of its rows.
template <int kTiles>
__device__ __forceinline__ void StoreRow(const RowSums<kTiles>& sums, int half, float divisor,
                                         float* to) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    to[8 * j + column] = sums.sum[j][2 * half] / divisor;
    to[8 * j + column + 1] = sums.sum[j][2 * half + 1] / divisor;
  }
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_ATTENTION_SUMS_CUH_
