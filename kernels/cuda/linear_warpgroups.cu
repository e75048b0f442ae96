// Launches of linear_warpgroups.cuh, and the kernel that lays tokens ready for it.

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_cut.h"
#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/linear_warpgroups.cuh"
#include "kernels/cuda/packing.cuh"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kChunk = 20;  // steps of x that are asked for at once

// Steps first .. of a row, up to `end`.
template <bool kAligned>
__device__ __forceinline__ void LoadChunk(const float* row, int first, int end,
                                          TokenPairs (&pairs)[kChunk]) {
  const float* from = row + first * kTileColumns + threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < kChunk; ++i, from += kTileColumns) {
    if (first + i >= end) break;
    if constexpr (kAligned) {
      pairs[i] = {__ldg(reinterpret_cast<const float2*>(from)),
                  __ldg(reinterpret_cast<const float2*>(from + 8))};
    } else {
      pairs[i] = {{__ldg(from), __ldg(from + 1)}, {__ldg(from + 8), __ldg(from + 9)}};
    }
  }
}

// Block (i, j, k), a warp: eight rows of x, steps part_steps k .. of eighth j of their columns,
// rounded and laid into tiles. Where rows are normed, k = 0 has all of them.
template <bool kAligned>
__global__ void __launch_bounds__(kWarp)
    PrepareTiles(const Product p, int tile_tokens, int part_steps, uint32_t* tiles,
                 float* squares) {
  LetNextKernelBegin();
  WaitForEarlierKernels();
  const int lane = threadIdx.x, group = blockIdx.x, eighth = blockIdx.y;
  const int there = p.RowsThatThereAre() - group * kGroupTokens;
  if (there <= 0) return;
  const int steps = static_cast<int>(Steps(p.columns));
  const int begin = EighthBegin(steps, eighth) + static_cast<int>(blockIdx.z) * part_steps;
  const int end = min(begin + part_steps, EighthBegin(steps, eighth + 1));
  const int row = group * kGroupTokens + lane / 4;
  const bool present = lane / 4 < there;
  const float* x = p.x + row * p.x_stride;
  const int token = row % tile_tokens, first_stage = row / tile_tokens * (steps / kStageSteps);
  uint32_t* to = tiles + int64_t{first_stage} * tile_tokens * kTokenPieces * 4 + lane % 4;
  float sum = 0;
#pragma unroll 1
  for (int first = begin; first < end; first += kChunk) {
    TokenPairs u[kChunk] = {}, weight[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) weight[i] = {{1, 1}, {1, 1}};
    if (present) LoadChunk<kAligned>(x, first, end, u);
    if (p.norm_weight != nullptr) LoadChunk<kAligned>(p.norm_weight, first, end, weight);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const int step = first + i;
      if (step >= end) break;
      sum = AddSquares(u[i], sum);
      const uint2 rounded = RoundedOperand(Times(u[i], weight[i]));
      // A lane's pairs of a step are words lane % 4 of the step's two pieces.
      uint32_t* stage = to + int64_t{step / kStageSteps} * tile_tokens * kTokenPieces * 4;
      const int piece = step % kStageSteps * kStepPieces;
      stage[SwizzledPiece(token, piece) * 4] = rounded.x;
      stage[SwizzledPiece(token, piece + 1) * 4] = rounded.y;
    }
  }
  sum = AddLanesOfToken(sum);
  if (p.normed && present && lane % 4 == 0) squares[int64_t{row} * kEighths + eighth] = sum;
}

using PrepareKernel = void (*)(const Product, int, int, uint32_t*, float*);
PrepareKernel PrepareOf(bool aligned) {
  if (aligned) return PrepareTiles<true>;
  return PrepareTiles<false>;
}

// 1 where the code that runs has products of warpgroups.
__global__ void ReportWarpgroups(int* found) {
#ifdef MAMBAD_HAS_WARPGROUP_PRODUCTS
  *found = 1;
#else
  *found = 0;
#endif
}

template <typename K>
__global__ void __launch_bounds__(K::kThreads, 1)
    MultiplyWarpgroups(const Product p, const Cut cut) {
#ifdef MAMBAD_HAS_WARPGROUP_PRODUCTS
  MultiplyInBlock<K>(p, cut);
#endif
}

// Calls use(Kind<...>()) of the kind that a cut is for.
template <typename Use>
void OfKind(bool split, int tokens, const Use& use) {
  if (split) {
    switch (tokens) {
      case 16:
        return use(Kind<16, 4, 4, true>());
      case 32:
        return use(Kind<32, 4, 4, true>());
      case 64:
        return use(Kind<64, 4, 4, true>());
      case 128:
        return use(Kind<128, 3, 4, true>());
    }
    Fail("Linear: no such tile", {split, tokens});
  }
  switch (tokens) {
    case 16:
      return use(Kind<16, 2, 8, false>());
    case 32:
      return use(Kind<32, 2, 8, false>());
    case 64:
      return use(Kind<64, 2, 7, false>());
    case 96:
      return use(Kind<96, 2, 6, false>());
    case 128:
      return use(Kind<128, 2, 5, false>());
    case 160:
      return use(Kind<160, 2, 4, false>());
  }
  Fail("Linear: no such tile", {split, tokens});
}

// Steps of an eighth that a warp of PrepareTiles takes: few where there are few rows, so that many
// ask for them at once. The squares of an eighth are one warp's.
int PartSteps(const Product& product) {
  constexpr int kFewRows = 256, kShortPart = 10;
  const int steps = static_cast<int>(Steps(product.columns)) / kEighths;
  return product.normed || product.rows > kFewRows ? steps : std::min(steps, kShortPart);
}

template <typename K>
cudaLaunchConfig_t ConfigOf(int blocks, int warpgroups, cudaLaunchAttribute (&attributes)[2]) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>((warpgroups + 1) * kGroupThreads));
  config.dynamicSmemBytes = K::kSharedBytes;
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {kEighths, 1, 1};
  config.attrs = attributes;
  config.numAttrs = K::kSplit ? 2 : 1;
  return config;
}

// Clusters of this kind that run at the same time; 0 where the device has none so large.
template <typename K>
int MostClusters() {
  cudaLaunchAttribute attributes[2] = {};
  const cudaLaunchConfig_t config = ConfigOf<K>(kEighths, K::kGroups, attributes);
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, MultiplyWarpgroups<K>, &config) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return clusters;
}

}  // namespace

void AllowWarpgroups(ProductUnits& units) {
  int *found = nullptr, has = 0;
  Check(cudaMalloc(&found, sizeof(int)), "Linear: looking for warpgroups");
  Launch("Linear: looking for warpgroups", nullptr, dim3(1), dim3(1), 0, ReportWarpgroups, found);
  Check(cudaMemcpy(&has, found, sizeof(has), cudaMemcpyDeviceToHost),
        "Linear: looking for warpgroups");
  Check(cudaFree(found), "Linear: looking for warpgroups");
  if (has == 0) return;
  // As the kernel behind it wants it: shared memory is not cut anew in between.
  for (const bool aligned : {false, true}) {
    Check(cudaFuncSetAttribute(PrepareOf(aligned), cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared),
          "Linear: shared memory");
  }
  units.warpgroups = true;
  units.clusters = units.multiprocessors / kEighths;
  ForEachTileKind([&units](bool split, int tokens) {
    OfKind(split, tokens, [&units](auto kind) {
      using K = decltype(kind);
      Check(cudaFuncSetAttribute(MultiplyWarpgroups<K>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 K::kSharedBytes),
            "Linear: shared memory");
      if (K::kSplit) units.clusters = std::min(units.clusters, MostClusters<K>());
    });
  });
}

void PrepareWarpgroups(cudaStream_t stream, Product& product, const TokenTiles& tiles,
                       float* squares) {
  const int groups = (product.rows + kGroupTokens - 1) / kGroupTokens;
  const int eighth_steps = static_cast<int>(Steps(product.columns)) / kEighths;
  const int part_steps = PartSteps(product);
  const int parts = (eighth_steps + part_steps - 1) / part_steps;
  LaunchEarly("Linear: tokens", stream, dim3(groups, kEighths, parts), dim3(kWarp), 0,
              PrepareOf(product.pairs_aligned), product, tiles.tokens, part_steps,
              reinterpret_cast<uint32_t*>(tiles.data), squares);
  product.squares = squares;
}

void LaunchWarpgroups(cudaStream_t stream, const Product& product, const Cut& cut,
                      int multiprocessors) {
  const int token_tiles = (product.rows + cut.tokens - 1) / cut.tokens;
  const int64_t count = int64_t{cut.panel_tiles} * token_tiles;
  const int warpgroups = (cut.tile_panels + kGroupWarps - 1) / kGroupWarps;
  OfKind(cut.split, cut.tokens, [&](auto kind) {
    using K = decltype(kind);
    if (warpgroups > K::kGroups) Fail("Linear: panels of a tile", {cut.tile_panels, cut.tokens});
    const int64_t blocks = K::kSplit ? count * kEighths : std::min<int64_t>(count, multiprocessors);
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = ConfigOf<K>(static_cast<int>(blocks), warpgroups, attributes);
    config.stream = stream;
    Check(cudaLaunchKernelEx(&config, MultiplyWarpgroups<K>, product, cut), "Linear: warpgroups");
  });
}

}  // namespace mambad::kernels::cuda
