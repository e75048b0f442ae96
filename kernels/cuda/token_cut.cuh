// Where a row's distribution is cut: the fewest most likely ids whose masses reach a wanted one.
// Of top_k a mass is 1, of top_p an id's weight as an integer. One block works on a row.
//
// A histogram over how far ids are from the most likely one finds the bin in which the last wanted
// id lies; its ids are few and are looked at one by one. Where they are many (most logits alike, as
// of no model), further histograms over their ranks' digits part them first. Nothing is sorted.

#ifndef MAMBAD_KERNELS_CUDA_TOKEN_CUT_CUH_
#define MAMBAD_KERNELS_CUDA_TOKEN_CUT_CUH_

#include <cstdint>

#include "kernels/cuda/token_distribution.cuh"

namespace mambad::kernels::cuda {

inline constexpr int kCutThreads = 1024;
inline constexpr int kCutBins = 2 * kCutThreads;
inline constexpr int kCutDigitBits = 11;
static_assert(1 << kCutDigitBits == kCutBins, "a digit is a bin");
// Bins to 1 of an exponent. Weights beyond the last bin are too small for a mass, but in a tiny
// vocabulary.
inline constexpr float kBinsOfExponent = 60;
inline constexpr int kCutCandidates = 512;  // few enough to be compared with each other

// In shared memory.
struct CutScratch {
  uint32_t low[kCutBins], high[kCutBins];  // of each bin's mass
  uint64_t ranks[kCutCandidates], masses[kCutCandidates];
  uint64_t warps[kWarpLanes];
  uint64_t rest, least_rank;
  int bin, count;
};

// ---- histograms ---------------------------------------------------------------------------------

__device__ inline void ClearBins(CutScratch& scratch) {
  for (int bin = threadIdx.x; bin < kCutBins; bin += kCutThreads) {
    scratch.low[bin] = 0;
    scratch.high[bin] = 0;
  }
}

// The sum of the lanes `together`, which all call it.
__device__ inline uint64_t SumOfLanes(unsigned together, uint64_t mass) {
  constexpr int kBits = 26;  // 32 numbers of so many bits make a sum of 32
  constexpr uint32_t kPart = (1u << kBits) - 1;
  const uint64_t low = __reduce_add_sync(together, static_cast<uint32_t>(mass) & kPart);
  const uint64_t middle = __reduce_add_sync(together, static_cast<uint32_t>(mass >> kBits) & kPart);
  const uint64_t high = __reduce_add_sync(together, static_cast<uint32_t>(mass >> (2 * kBits)));
  return low + (middle << kBits) + (high << (2 * kBits));
}

// Two additions of half the width, which the multiprocessor does by itself: whoever makes the lower
// half overflow carries. Lanes that come here together and mean the same bin, as where logits are
// alike, add once. How they come changes no sum.
__device__ inline void AddToBin(CutScratch& scratch, int bin, uint64_t mass) {
  const unsigned together = __activemask();
  int same = 0;
  __match_all_sync(together, bin, &same);
  if (same != 0) {
    mass = SumOfLanes(together, mass);
    if (static_cast<int>(threadIdx.x % kWarpLanes) != __ffs(together) - 1) return;
  }
  const auto low = static_cast<uint32_t>(mass);
  auto high = static_cast<uint32_t>(mass >> 32);
  if (low != 0) {
    const uint32_t before = atomicAdd(&scratch.low[bin], low);
    if (before + low < before) ++high;
  }
  if (high != 0) atomicAdd(&scratch.high[bin], high);
}

// Finds the bin in which the masses from bin 0 on reach wanted(all of them), and what of it is
// still missing before that bin. False: they do not reach it. Begins with all bins visible to all
// threads.
template <typename Wanted>
__device__ inline bool SelectBin(CutScratch& scratch, const Wanted& wanted, int* bin,
                                 uint64_t* rest) {
  const int lane = threadIdx.x % kWarpLanes, warp = threadIdx.x / kWarpLanes;
  const int first = 2 * threadIdx.x;
  const auto mass = [&](int of) { return (uint64_t{scratch.high[of]} << 32) + scratch.low[of]; };
  const uint64_t of_first = mass(first), both = of_first + mass(first + 1);
  uint64_t end = both;  // of this thread's bins, from the warp's first bin on
#pragma unroll
  for (int offset = 1; offset < kWarpLanes; offset *= 2) {
    const uint64_t other = __shfl_up_sync(kWholeWarp, end, offset);
    if (lane >= offset) end += other;
  }
  if (lane == kWarpLanes - 1) scratch.warps[warp] = end;
  if (threadIdx.x == 0) scratch.bin = -1;
  __syncthreads();
  uint64_t total = 0;
  for (int i = 0; i < kCutThreads / kWarpLanes; ++i) {
    const uint64_t of_warp = scratch.warps[i];
    if (i < warp) end += of_warp;
    total += of_warp;
  }
  const uint64_t target = wanted(total), before = end - both;
  if (before < target && target <= end) {
    const bool in_first = target <= before + of_first;
    scratch.bin = first + (in_first ? 0 : 1);
    scratch.rest = target - before - (in_first ? 0 : of_first);
  }
  __syncthreads();
  *bin = scratch.bin;
  *rest = scratch.rest;
  return *bin >= 0;
}

// ---- the cut ------------------------------------------------------------------------------------

// Calls visit(rank, mass) for the ids of rank `least_rank` at least, all of them or of one bin,
// that have a mass and whose ranks begin with `prefix`, all but its lower `free_bits` bits.
struct CutFilter {
  uint64_t least_rank = 0;
  int bin = -1;  // -1: of all
  uint64_t prefix = 0;
  int free_bits = 64;
};

__device__ inline int BinOf(const Weights& weights, float x) {
  return min(__float2int_rz(__fmul_rn(weights.Exponent(x), -kBinsOfExponent)), kCutBins - 1);
}

template <typename Mass, typename Visit>
__device__ inline void ForCandidates(const AdjustedLogits& row, const Weights& weights,
                                     const CutFilter& filter, const Mass& mass,
                                     const Visit& visit) {
  ForPossibleIds(row, [&](float x, int32_t id) {
    const uint64_t rank = RankOf(x, id);
    if (rank < filter.least_rank) return;
    const int bin = BinOf(weights, x);
    if (filter.bin >= 0 && bin != filter.bin) return;
    if (filter.free_bits < 64 && rank >> filter.free_bits != filter.prefix) return;
    const uint64_t of_id = mass(x);
    if (of_id > 0) visit(rank, of_id, bin);
  });
}

// The rank of the last of the fewest most likely ids whose masses reach wanted(their sum), at least
// 1, of those from rank `least_rank` on; that rank itself where they do not reach it. mass(x) is
// the same for equal x; `weights` has the row's maximum. All kCutThreads threads of the block call
// it and get the result.
template <typename Mass, typename Wanted>
__device__ inline uint64_t RankOfCut(const AdjustedLogits& row, const Weights& weights,
                                     uint64_t least_rank, const Mass& mass, const Wanted& wanted,
                                     CutScratch& scratch) {
  CutFilter filter;
  filter.least_rank = least_rank;
  ClearBins(scratch);
  __syncthreads();
  ForCandidates(row, weights, filter, mass,
                [&](uint64_t, uint64_t of_id, int bin) { AddToBin(scratch, bin, of_id); });
  __syncthreads();
  uint64_t rest = 0;
  if (!SelectBin(scratch, wanted, &filter.bin, &rest)) return least_rank;
  for (;;) {
    if (threadIdx.x == 0) scratch.count = 0;
    __syncthreads();
    ForCandidates(row, weights, filter, mass, [&](uint64_t rank, uint64_t of_id, int) {
      const int at = atomicAdd(&scratch.count, 1);
      if (at >= kCutCandidates) return;
      scratch.ranks[at] = rank;
      scratch.masses[at] = of_id;
    });
    __syncthreads();
    if (scratch.count <= kCutCandidates) break;
    const int free_bits = max(filter.free_bits - kCutDigitBits, 0);
    const uint32_t digits = (1u << (filter.free_bits - free_bits)) - 1;
    ClearBins(scratch);
    __syncthreads();
    ForCandidates(row, weights, filter, mass, [&](uint64_t rank, uint64_t of_id, int) {
      AddToBin(scratch, digits - (static_cast<uint32_t>(rank >> free_bits) & digits), of_id);
    });
    __syncthreads();
    int bin = 0;
    SelectBin(
        scratch, [rest](uint64_t) { return rest; }, &bin, &rest);
    const uint32_t digit = digits - static_cast<uint32_t>(bin);
    filter.prefix = (filter.prefix << (filter.free_bits - free_bits)) | digit;
    filter.free_bits = free_bits;
  }
  const int count = scratch.count;
  for (int i = threadIdx.x; i < count; i += kCutThreads) {
    const uint64_t rank = scratch.ranks[i];
    uint64_t before = 0;
    for (int j = 0; j < count; ++j) before += scratch.ranks[j] > rank ? scratch.masses[j] : 0;
    if (before < rest && rest <= before + scratch.masses[i]) scratch.least_rank = rank;
  }
  __syncthreads();
  return scratch.least_rank;
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TOKEN_CUT_CUH_
