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

constexpr int kStageSteps = 4;  // steps that a stage holds

// What a block computes: so many panels of weights by groups of tokens, with down by across warps
// and room for so many stages in shared memory.
template <int panels_held, int groups_held, int down, int across, int stages_held>
struct Tile {
  static constexpr int kPanels = panels_held, kGroups = groups_held, kStages = stages_held;
  static constexpr int kDown = down, kAcross = across;
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

using LargeTile = Tile<8, 16, 2, 4, 3>;
using SmallTile = Tile<4, 8, 2, 2, 6>;

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
  // The totals of panels first_panel .. and groups first_group .., of the tokens that there are.
  __device__ __forceinline__ void Write(const Product& p, int there, int first_panel,
                                        int first_group) const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int j = 0; j < T::kWarpGroups; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int token = (first_group + j) * kGroupTokens + lane % 4 * 2 + e % 2;
        if (token >= there) continue;
        const float scale = p.normed ? p.scales[token] : 1;
#pragma unroll
        for (int m = 0; m < T::kWarpPanels; ++m) {
          const int output = (first_panel + m) * kTileRows + lane / 4 + e / 2 * 8;
          if (output < p.outputs) p.Put(token, output, total[m][j][e], scale);
        }
      }
    }
  }
};

// The steps of a stage, the first of which is `first`. weights, tokens: this warp's, of that step.
template <typename T>
__device__ __forceinline__ void MultiplyStage(const uint4* weights, const uint2* tokens, int first,
                                              int steps, EighthEnds& eighth, TileSums<T>& sums) {
  const int last = first + kStageSteps;
  if (last <= steps && last <= eighth.end) {  // mostly: no eighth ends inside
#pragma unroll
    for (int k = 0; k < kStageSteps; ++k) sums.Multiply(weights + k * kWarp, tokens + k * kWarp);
    if (last != eighth.end) return;
    sums.Fold();
    eighth.Next();
    return;
  }
#pragma unroll 1
  for (int k = 0; k < kStageSteps && first + k < steps; ++k) {
    sums.Multiply(weights + k * kWarp, tokens + k * kWarp);
    if (first + k + 1 != eighth.end) continue;
    sums.Fold();
    eighth.Next();
  }
}

// Block (i, j): groups kGroups i .., panels kPanels j ..: blocks that run at once share weights.
template <typename T>
__global__ void __launch_bounds__(T::kThreads) MultiplyTiles(const Product p) {
  extern __shared__ uint4 stages[];
  const int there = p.RowsThatThereAre(), first_group = blockIdx.x * T::kGroups;
  if (first_group * kGroupTokens >= there) return;
  const int steps = static_cast<int>(Steps(p.columns)), first_panel = blockIdx.y * T::kPanels;
  const int panels = static_cast<int>(Panels(p.outputs));
  const int stage_count = (steps + kStageSteps - 1) / kStageSteps;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int warp_panel = warp / T::kAcross * T::kWarpPanels;
  const int warp_group = warp % T::kAcross * T::kWarpGroups;

#pragma unroll
  for (int stage = 0; stage < T::kStages - 1; ++stage) {
    if (stage < stage_count) {
      T::Bring(p, steps, panels, first_panel, first_group, stage, stages + stage * T::kStagePieces);
    }
    CommitCopies();
  }
  TileSums<T> sums;
  EighthEnds eighth(steps);
#pragma unroll 1
  for (int stage = 0; stage < stage_count; ++stage) {
    WaitForCopies<T::kStages - 2>();  // this stage has come, of this thread's copies
    __syncthreads();                  // of all; and all are done with the stage before it
    const int next = stage + T::kStages - 1;
    if (next < stage_count) {
      T::Bring(p, steps, panels, first_panel, first_group, next,
               stages + next % T::kStages * T::kStagePieces);
    }
    CommitCopies();
    const uint4* weights =
        stages + stage % T::kStages * T::kStagePieces + warp_panel * T::kPanelPieces + lane;
    const uint2* tokens =
        reinterpret_cast<const uint2*>(stages + stage % T::kStages * T::kStagePieces +
                                       T::kWeightPieces + warp_group * T::kGroupPieces) +
        lane;
    MultiplyStage(weights, tokens, stage * kStageSteps, steps, eighth, sums);
  }
  sums.Write(p, there, first_panel + warp_panel, first_group + warp_group);
}

template <typename T>
dim3 Grid(const Product& product) {
  const int panels = static_cast<int>(Panels(product.outputs));
  const int groups = (product.rows + kGroupTokens - 1) / kGroupTokens;
  return {static_cast<unsigned>((groups + T::kGroups - 1) / T::kGroups),
          static_cast<unsigned>((panels + T::kPanels - 1) / T::kPanels), 1};
}

template <typename T>
void Start(cudaStream_t stream, const Product& product) {
  Launch("Linear: many rows", stream, Grid<T>(product), dim3(T::kThreads), T::kSharedBytes,
         MultiplyTiles<T>, product);
}

template <typename T>
void Allow() {
  Check(cudaFuncSetAttribute(MultiplyTiles<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             T::kSharedBytes),
        "Linear: shared memory");
}

}  // namespace

void AllowTiles() {
  Allow<LargeTile>();
  Allow<SmallTile>();
}

void LaunchTiles(cudaStream_t stream, const Product& product, int multiprocessors) {
  const dim3 large = Grid<LargeTile>(product);
  if (int64_t{large.x} * large.y >= multiprocessors) {
    Start<LargeTile>(stream, product);
  } else {
    Start<SmallTile>(stream, product);
  }
}

}  // namespace mambad::kernels::cuda
