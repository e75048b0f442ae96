// Products of many rows with bfloat16 weights: tiles of outputs and tokens whose operands come
// through shared memory. An element's sums are those of linear_few_rows.cu, in their order.

#include <cstdint>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/packing.cuh"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kStages = 3;      // of shared memory
constexpr int kStageSteps = 4;  // steps that a stage holds

// kPanels panels of weights by kGroups groups of tokens a block, kDown by kAcross warps.
template <int kPanels, int kGroups, int kDown, int kAcross>
struct Tile {
  static constexpr int kThreads = kDown * kAcross * kWarp;
  static constexpr int kWarpPanels = kPanels / kDown, kWarpGroups = kGroups / kAcross;
  // In pieces of 16 bytes: 32 lanes a step and panel, 16 a step and group.
  static constexpr int kPanelPieces = kStageSteps * kWarp;
  static constexpr int kGroupPieces = kStageSteps * kWarp / 2;
  static constexpr int kWeightPieces = kPanels * kPanelPieces;
  static constexpr int kTokenPieces = kGroups * kGroupPieces;
  static constexpr int kStagePieces = kWeightPieces + kTokenPieces;
  static constexpr int kSharedBytes = kStages * kStagePieces * 16;

  // Asks for what stage `stage` multiplies; zeros stand for steps and panels that there are not.
  __device__ static void Bring(const Product& p, int steps, int panels, int first_panel,
                               int first_group, int stage, uint4* to) {
    const uint4* weights = static_cast<const uint4*>(p.weights);
    const uint4* operands = reinterpret_cast<const uint4*>(p.operands);
    const int first_step = stage * kStageSteps;
#pragma unroll
    for (int i = threadIdx.x; i < kWeightPieces; i += kThreads) {
      const int panel = first_panel + i / kPanelPieces, piece = i % kPanelPieces;
      const bool present = panel < panels && first_step + piece / kWarp < steps;
      const int64_t from = (int64_t{panel} * steps + first_step) * kWarp + piece;
      CopyAsync(to + i, weights + (present ? from : 0), present);
    }
#pragma unroll
    for (int i = threadIdx.x; i < kTokenPieces; i += kThreads) {
      const int group = first_group + i / kGroupPieces, piece = i % kGroupPieces;
      const bool present = first_step + piece / (kWarp / 2) < steps;
      const int64_t from = (int64_t{group} * steps + first_step) * (kWarp / 2) + piece;
      CopyAsync(to + kWeightPieces + i, operands + (present ? from : 0), present);
    }
  }
};

// Where the next eighth ends that has steps.
struct EighthEnds {
  int steps, eighth = 0, end = 0;
  __device__ explicit EighthEnds(int all_steps) : steps(all_steps) { Next(); }
  __device__ void Next() {
    const int before = end;
    while (end == before && eighth < kEighths) end = EighthBegin(steps, ++eighth);
  }
};

template <typename T>
struct TileSums {
  float chain[T::kWarpPanels][T::kWarpGroups][4] = {};
  float total[T::kWarpPanels][T::kWarpGroups][4] = {};

  // One step. weights, tokens: this warp's, of the step; panels and groups lie a stage's steps
  // apart.
  __device__ __forceinline__ void Multiply(const uint4* weights, const uint2* tokens) {
    uint4 left[T::kWarpPanels];
    uint2 right[T::kWarpGroups];
#pragma unroll
    for (int m = 0; m < T::kWarpPanels; ++m) left[m] = weights[m * T::kPanelPieces];
#pragma unroll
    for (int j = 0; j < T::kWarpGroups; ++j) right[j] = tokens[j * T::kGroupPieces * 2];
#pragma unroll
    for (int m = 0; m < T::kWarpPanels; ++m) {
#pragma unroll
      for (int j = 0; j < T::kWarpGroups; ++j) MultiplyAdd(left[m], right[j], chain[m][j]);
    }
  }
  // An eighth is done.
  __device__ __forceinline__ void Fold() {
#pragma unroll
    for (int m = 0; m < T::kWarpPanels; ++m) {
#pragma unroll
      for (int j = 0; j < T::kWarpGroups; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          total[m][j][e] += chain[m][j][e];
          chain[m][j][e] = 0;
        }
      }
    }
  }
};

// Block (i, j): groups kGroups i .., panels kPanels j ..: blocks that run at once share weights.
template <int kPanels, int kGroups, int kDown, int kAcross>
__global__ void __launch_bounds__(kDown* kAcross* kWarp) MultiplyTiles(const Product p) {
  using T = Tile<kPanels, kGroups, kDown, kAcross>;
  extern __shared__ uint4 stages[];
  const int there = p.RowsThatThereAre(), first_group = blockIdx.x * kGroups;
  if (first_group * kGroupTokens >= there) return;
  const int steps = static_cast<int>(Steps(p.columns)), first_panel = blockIdx.y * kPanels;
  const int panels = static_cast<int>(Panels(p.outputs));
  const int stage_count = (steps + kStageSteps - 1) / kStageSteps;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int warp_panel = warp / kAcross * T::kWarpPanels;
  const int warp_group = warp % kAcross * T::kWarpGroups;

#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < stage_count) {
      T::Bring(p, steps, panels, first_panel, first_group, stage, stages + stage * T::kStagePieces);
    }
    CommitCopies();
  }
  TileSums<T> sums;
  EighthEnds eighth(steps);
#pragma unroll 1
  for (int stage = 0; stage < stage_count; ++stage) {
    WaitForCopies<kStages - 2>();  // this stage has come, of this thread's copies
    __syncthreads();               // of all; and all are done with the stage before it
    const int next = stage + kStages - 1;
    if (next < stage_count) {
      T::Bring(p, steps, panels, first_panel, first_group, next,
               stages + next % kStages * T::kStagePieces);
    }
    CommitCopies();
    const uint4* weights =
        stages + stage % kStages * T::kStagePieces + warp_panel * T::kPanelPieces + lane;
    const uint2* tokens =
        reinterpret_cast<const uint2*>(stages + stage % kStages * T::kStagePieces +
                                       T::kWeightPieces + warp_group * T::kGroupPieces) +
        lane;
    const int first = stage * kStageSteps, last = first + kStageSteps;
    if (last <= steps && last <= eighth.end) {
#pragma unroll
      for (int k = 0; k < kStageSteps; ++k) {
        sums.Multiply(weights + k * kWarp, tokens + k * kWarp);
      }
      if (last == eighth.end) {
        sums.Fold();
        eighth.Next();
      }
    } else {
#pragma unroll 1
      for (int k = 0; k < kStageSteps && first + k < steps; ++k) {
        sums.Multiply(weights + k * kWarp, tokens + k * kWarp);
        if (first + k + 1 == eighth.end) {
          sums.Fold();
          eighth.Next();
        }
      }
    }
  }

#pragma unroll
  for (int j = 0; j < T::kWarpGroups; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int token = (first_group + warp_group + j) * kGroupTokens + lane % 4 * 2 + e % 2;
      if (token >= there) continue;
      const float scale = p.normed ? p.scales[token] : 1;
#pragma unroll
      for (int m = 0; m < T::kWarpPanels; ++m) {
        const int output = (first_panel + warp_panel + m) * kTileRows + lane / 4 + e / 2 * 8;
        if (output < p.outputs) p.Put(token, output, sums.total[m][j][e], scale);
      }
    }
  }
}

template <int kPanels, int kGroups, int kDown, int kAcross>
void Start(cudaStream_t stream, const Product& product) {
  const int panels = static_cast<int>(Panels(product.outputs));
  const int groups = (product.rows + kGroupTokens - 1) / kGroupTokens;
  using T = Tile<kPanels, kGroups, kDown, kAcross>;
  Launch("Linear: many rows", stream,
         dim3((groups + kGroups - 1) / kGroups, (panels + kPanels - 1) / kPanels),
         dim3(T::kThreads), T::kSharedBytes, MultiplyTiles<kPanels, kGroups, kDown, kAcross>,
         product);
}

template <int kPanels, int kGroups, int kDown, int kAcross>
void Allow() {
  Check(cudaFuncSetAttribute(MultiplyTiles<kPanels, kGroups, kDown, kAcross>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                             Tile<kPanels, kGroups, kDown, kAcross>::kSharedBytes),
        "Linear: shared memory");
}

}  // namespace

void AllowTiles() {
  Allow<8, 16, 2, 4>();
  Allow<4, 8, 2, 2>();
}

void LaunchTiles(cudaStream_t stream, const Product& product, int multiprocessors) {
  const int64_t large = (Panels(product.outputs) + 7) / 8 * ((product.rows + 127) / 128);
  if (large >= multiprocessors) {
    Start<8, 16, 2, 4>(stream, product);
  } else {
    Start<4, 8, 2, 2>(stream, product);
  }
}

}  // namespace mambad::kernels::cuda
