// One row of logits as a distribution, on the device: the logits after bias, penalties and masks,
// ranks, weights. What is said of a number here is the same wherever it is asked for, and so no row
// keeps a changed copy of its logits: every pass makes what it needs from the logits themselves.
//
// No result depends on how ids are dealt out to threads and blocks: passes look for largest ranks
// and first arrivals, which have no order, and sum weights as integers (MassOf), whose sums have
// none either.

#ifndef MAMBAD_KERNELS_CUDA_TOKEN_DISTRIBUTION_CUH_
#define MAMBAD_KERNELS_CUDA_TOKEN_DISTRIBUTION_CUH_

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/backend.h"

namespace mambad::kernels::cuda {

inline constexpr int kWarpLanes = 32;
inline constexpr unsigned kWholeWarp = 0xffffffffu;
inline constexpr int kGroupIds = 4;  // ids a thread takes at once: those of one Philox call

// ---- ranks --------------------------------------------------------------------------------------

// An id's rank among those of its row: larger is more likely, the lower id of equals. Impossible
// ids (-infinity, NaN) have ranks below kLeastPossible.
inline constexpr uint64_t kLeastPossible = uint64_t{1} << 32;

__device__ inline float Impossible() { return -INFINITY; }

__device__ inline uint64_t RankOf(float x, int32_t id) {
  uint32_t order = 0;
  if (x > Impossible()) {
    const uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0f));  // -0 equals 0
    order = bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
  }
  return (uint64_t{order} << 32) | (0xffffffffu - static_cast<uint32_t>(id));
}

__device__ inline int32_t IdOfRank(uint64_t rank) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(rank));
}

// Of a possible id.
__device__ inline float LogitOfRank(uint64_t rank) {
  const uint32_t order = static_cast<uint32_t>(rank >> 32);
  return __uint_as_float(order ^ (order >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

// ---- logits -------------------------------------------------------------------------------------

// Numbers first .. first + 3 of a row that has `count` of them; what stands beyond is not read, and
// its places keep what they had.
template <typename T>
__device__ inline void LoadFour(const T* row, int first, int count, T (&four)[kGroupIds]) {
  static_assert(sizeof(T) * kGroupIds == sizeof(uint4), "one load");
  const T* const from = row + first;
  if (count - first >= kGroupIds && reinterpret_cast<uintptr_t>(from) % sizeof(uint4) == 0) {
    const uint4 loaded = *reinterpret_cast<const uint4*>(from);
    memcpy(four, &loaded, sizeof(loaded));
    return;
  }
#pragma unroll
  for (int i = 0; i < kGroupIds; ++i) {
    if (first + i < count) four[i] = from[i];
  }
}

// A row of logits and where it stands: what decides its distribution.
struct RowContext {
  const float* logits = nullptr;  // [vocabulary]
  const SamplingState* state = nullptr;
  int32_t position = 0;             // of the token that the row decides
  const int32_t* window = nullptr;  // drafts before the row, counted as answer
  int window_count = 0;
};

// What the ids [0, vocabulary) of a row are worth: nullptr and 0 where nothing is done.
struct AdjustedLogits {
  int vocabulary = 0;
  const float* logits = nullptr;
  const float* bias = nullptr;
  const int32_t* counts = nullptr;
  const int32_t* window = nullptr;
  int window_count = 0;
  const int32_t* stop_ids = nullptr;
  int stop_count = 0;
  float repetition = 1, presence = 0, frequency = 0;

  __device__ int groups() const { return (vocabulary + kGroupIds - 1) / kGroupIds; }

  // Those of ids 4 group .. 4 group + 3; impossible beyond the vocabulary.
  __device__ void Load(int group, float (&x)[kGroupIds]) const {
    const int first = group * kGroupIds;
#pragma unroll
    for (int i = 0; i < kGroupIds; ++i) x[i] = Impossible();
    LoadFour(logits, first, vocabulary, x);
    if (bias == nullptr && counts == nullptr && stop_count == 0) return;
    if (bias != nullptr) {
      float added[kGroupIds] = {};
      LoadFour(bias, first, vocabulary, added);
#pragma unroll
      for (int i = 0; i < kGroupIds; ++i) x[i] = __fadd_rn(x[i], added[i]);
    }
    if (counts != nullptr) {
      int32_t words[kGroupIds] = {};
      LoadFour(counts, first, vocabulary, words);
#pragma unroll
      for (int i = 0; i < kGroupIds; ++i) {
        x[i] = Penalised(x[i], static_cast<uint32_t>(words[i]) + Drafted(first + i));
      }
    }
#pragma unroll
    for (int i = 0; i < kGroupIds; ++i) {
      if (first + i >= vocabulary || IsMaskedStop(first + i)) x[i] = Impossible();
    }
  }

  __device__ bool IsMaskedStop(int32_t id) const {
    for (int i = 0; i < stop_count; ++i) {
      if (stop_ids[i] == id) return true;
    }
    return false;
  }

 private:
  __device__ uint32_t Drafted(int32_t id) const {
    uint32_t times = 0;
    for (int i = 0; i < window_count; ++i) times += window[i] == id ? 1 : 0;
    return times;
  }

  // `word` as SamplingTables::counts has it.
  __device__ float Penalised(float x, uint32_t word) const {
    if (word != 0) x = x > 0 ? __fdiv_rn(x, repetition) : __fmul_rn(x, repetition);
    const auto times = static_cast<float>(static_cast<int32_t>(word & 0x7fffffffu));
    if (times > 0) x = __fsub_rn(__fsub_rn(x, __fmul_rn(frequency, times)), presence);
    return x;
  }
};

__device__ inline AdjustedLogits Adjust(const RowContext& row, const SamplingTables& tables) {
  const SamplingState& state = *row.state;
  AdjustedLogits adjusted;
  adjusted.vocabulary = tables.vocabulary;
  adjusted.logits = row.logits;
  if (state.bias_row >= 0) {
    adjusted.bias = tables.bias + int64_t{state.bias_row} * tables.padded_vocabulary;
  }
  adjusted.repetition = state.repetition_penalty;
  adjusted.presence = state.presence_penalty;
  adjusted.frequency = state.frequency_penalty;
  if (state.counts_row >= 0 &&
      (adjusted.repetition != 1 || adjusted.presence != 0 || adjusted.frequency != 0)) {
    adjusted.counts = tables.counts + int64_t{state.counts_row} * tables.padded_vocabulary;
    adjusted.window = row.window;
    adjusted.window_count = row.window_count;
  }
  if (row.position < state.stop_from) {
    adjusted.stop_ids = state.stop_ids;
    adjusted.stop_count = state.stop_count;
  }
  return adjusted;
}

// ---- weights ------------------------------------------------------------------------------------

// e^((x - maximum) / temperature), 0 for impossible ids. An infinite logit counts as the largest
// number.
struct Weights {
  float maximum = 0;  // finite
  float temperature = 1;

  // Of a possible id; never above 0, and never larger for a smaller x.
  __device__ float Exponent(float x) const {
    // What is not a number (all are equal where the temperature is infinite) becomes 0.
    return fminf(__fdiv_rn(__fsub_rn(fminf(x, FLT_MAX), maximum), temperature), 0.0f);
  }
  __device__ float Of(float x) const { return x > Impossible() ? expf(Exponent(x)) : 0.0f; }
};

__device__ inline Weights WeightsOf(uint64_t best_rank, float temperature) {
  return {fminf(LogitOfRank(best_rank), FLT_MAX), temperature};
}

// Weights as integers: those of a whole row make a sum below 2^63.
__device__ inline int MassBits(int vocabulary) { return 30 + __clz(vocabulary - 1); }

__device__ inline float MassScale(int vocabulary) {
  return __uint_as_float(static_cast<uint32_t>(127 + MassBits(vocabulary)) << 23);
}

__device__ inline uint64_t MassOf(float weight, float scale) {
  return __float2ull_rn(__fmul_rn(weight, scale));
}

// ---- reductions ---------------------------------------------------------------------------------

struct LargerRank {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};
struct MassSum {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};

template <typename Operation>
__device__ inline uint64_t WarpReduce(uint64_t value, const Operation& operation) {
#pragma unroll
  for (int offset = kWarpLanes / 2; offset > 0; offset /= 2) {
    value = operation(value, __shfl_xor_sync(kWholeWarp, value, offset));
  }
  return value;
}

// Every thread of the block gets the result; 0 is neutral. `warps` [kWarpLanes] in shared memory.
template <typename Operation>
__device__ inline uint64_t BlockReduce(uint64_t value, uint64_t* warps,
                                       const Operation& operation) {
  const int lane = threadIdx.x % kWarpLanes, warp = threadIdx.x / kWarpLanes;
  value = WarpReduce(value, operation);
  __syncthreads();
  if (lane == 0) warps[warp] = value;
  __syncthreads();
  value = lane < static_cast<int>(blockDim.x) / kWarpLanes ? warps[lane] : 0;
  return WarpReduce(value, operation);
}

// Calls visit(x, id) for the possible ids of a row, all threads of the block taking turns; each
// asks for some groups before it looks at the first.
template <typename Visit>
__device__ inline void ForPossibleIds(const AdjustedLogits& row, const Visit& visit) {
  constexpr int kAhead = 4;
  const int step = blockDim.x, groups = row.groups();
  for (int first = threadIdx.x; first < groups; first += kAhead * step) {
    float x[kAhead][kGroupIds];
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) {
      const int group = first + ahead * step;
#pragma unroll
      for (int i = 0; i < kGroupIds; ++i) x[ahead][i] = Impossible();
      if (group < groups) row.Load(group, x[ahead]);
    }
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) {
#pragma unroll
      for (int i = 0; i < kGroupIds; ++i) {
        const int32_t id = (first + ahead * step) * kGroupIds + i;
        if (x[ahead][i] > Impossible()) visit(x[ahead][i], id);
      }
    }
  }
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TOKEN_DISTRIBUTION_CUH_
