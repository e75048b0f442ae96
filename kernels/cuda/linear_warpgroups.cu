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

// Block (i, j), a warp: eight rows of x, eighth j of their columns, rounded and laid into tiles.
template <bool kAligned>
__global__ void __launch_bounds__(kWarp)
    PrepareTiles(const Product p, int tile_tokens, uint32_t* tiles, float* squares) {
  LetNextKernelBegin();
  WaitForEarlierKernels();
  const int lane = threadIdx.x, group = blockIdx.x, eighth = blockIdx.y;
  const int there = p.RowsThatThereAre() - group * kGroupTokens;
  if (there <= 0) return;
  const int steps = static_cast<int>(Steps(p.columns));
  const int begin = EighthBegin(steps, eighth), end = EighthBegin(steps, eighth + 1);
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

using PrepareKernel = void (*)(const Product, int, uint32_t*, float*);
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
    MultiplyWarpgroups(const Product p, const Cut cut, const Meeting meeting) {
#ifdef MAMBAD_HAS_WARPGROUP_PRODUCTS
  MultiplyInBlock<K>(p, cut, meeting);
#endif
}

// Calls use(Kind<...>()) of the kind that a cut is for.
template <typename Use>
void OfKind(bool split, int tokens, const Use& use) {
  if (split) {
    switch (tokens) {
      case 16:
        return use(Kind<16, 3, 6, true>());
      case 32:
        return use(Kind<32, 3, 6, true>());
      case 64:
        return use(Kind<64, 3, 5, true>());
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

// Launches a kernel that may begin before the one in front of it has ended.
template <typename... Parameters>
void LaunchEarly(const char* what, cudaStream_t stream, dim3 grid, dim3 block, size_t shared,
                 void (*kernel)(Parameters...), Parameters... arguments) {
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  Check(cudaLaunchKernelEx(&config, kernel, arguments...), what);
}

}  // namespace

bool AllowWarpgroups() {
  int *found = nullptr, has = 0;
  Check(cudaMalloc(&found, sizeof(int)), "Linear: looking for warpgroups");
  Launch("Linear: looking for warpgroups", nullptr, dim3(1), dim3(1), 0, ReportWarpgroups, found);
  Check(cudaMemcpy(&has, found, sizeof(has), cudaMemcpyDeviceToHost),
        "Linear: looking for warpgroups");
  Check(cudaFree(found), "Linear: looking for warpgroups");
  if (has == 0) return false;
  // As the kernel behind it wants it: shared memory is not cut anew in between.
  for (const bool aligned : {false, true}) {
    Check(cudaFuncSetAttribute(PrepareOf(aligned), cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared),
          "Linear: shared memory");
  }
  ForEachTileKind([](bool split, int tokens) {
    OfKind(split, tokens, [](auto kind) {
      using K = decltype(kind);
      Check(cudaFuncSetAttribute(MultiplyWarpgroups<K>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 K::kSharedBytes),
            "Linear: shared memory");
    });
  });
  return true;
}

void LaunchWarpgroups(cudaStream_t stream, Product& product, const Cut& cut, int multiprocessors,
                      void* tiles, float* squares, const Meeting& meeting) {
  const int groups = (product.rows + kGroupTokens - 1) / kGroupTokens;
  LaunchEarly("Linear: tokens", stream, dim3(groups, kEighths), dim3(kWarp), 0,
              PrepareOf(product.pairs_aligned), product, cut.tokens, static_cast<uint32_t*>(tiles),
              squares);
  product.token_tiles = static_cast<const uint4*>(tiles);
  product.squares = squares;
  const int token_tiles = (product.rows + cut.tokens - 1) / cut.tokens;
  const int64_t count = int64_t{cut.panel_tiles} * token_tiles * (cut.split ? kEighths : 1);
  const int blocks = static_cast<int>(std::min<int64_t>(count, multiprocessors));
  const int warpgroups = (cut.tile_panels + kGroupWarps - 1) / kGroupWarps;
  OfKind(cut.split, cut.tokens, [&](auto kind) {
    using K = decltype(kind);
    if (warpgroups > K::kGroups) Fail("Linear: panels of a tile", {cut.tile_panels, cut.tokens});
    LaunchEarly("Linear: warpgroups", stream, dim3(blocks), dim3((warpgroups + 1) * kGroupThreads),
                K::kSharedBytes, MultiplyWarpgroups<K>, product, cut, meeting);
  });
}

}  // namespace mambad::kernels::cuda
