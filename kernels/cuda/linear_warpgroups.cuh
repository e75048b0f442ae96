// The kernel of products of more than eight rows with bfloat16 weights on GPUs whose warpgroups
// multiply (warpgroup.cuh). A warp loads panels of weights from device memory straight into the
// registers that are multiplied; tokens come through shared memory, where all warps of a block use
// them. An element's sums are those of linear_few_rows.cu, in their order.

#ifndef MAMBAD_KERNELS_CUDA_LINEAR_WARPGROUPS_CUH_
#define MAMBAD_KERNELS_CUDA_LINEAR_WARPGROUPS_CUH_

#include <cstdint>

#include "kernels/cuda/linear_cut.h"
#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/packing.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace mambad::kernels::cuda {

inline constexpr int kGroupWarps = 4, kGroupThreads = kGroupWarps * kWarp;
inline constexpr int kStageSteps = 4;  // steps whose tokens come together

// tokens: of a tile; groups: of warps, at most; depth: steps of weights that a warp has on their
// way; stages: of tokens that shared memory holds; split: a tile is one eighth of the columns.
template <int tokens, int groups, int depth, int stages, bool split>
struct Kind {
  static constexpr int kTokens = tokens, kGroups = groups, kDepth = depth, kStages = stages;
  static constexpr bool kSplit = split;
  static constexpr int kSums = kTokens / 2;        // of a lane
  static constexpr int kStepPieces = 2 * kTokens;  // of 16 bytes, a step's tokens
  static constexpr int kStagePieces = kStageSteps * kStepPieces;
  static constexpr int kAhead = kStages - 4;  // stages asked for before they are used
  static constexpr int kScaleBytes = kGroups * kTokens * (kEighths + 1) * int{sizeof(float)};
  static constexpr int kSharedBytes = kStages * kStagePieces * 16 + kScaleBytes;
  static_assert(kDepth % kStageSteps == 0 && kAhead > 0);
  // All places of a ring of weights are used in a tile, or tiles are equally long.
  static_assert(!kSplit || kDepth <= kLeastSplitSteps / kEighths);
};

// What is cut how: tiles of panels, tokens and, where split, eighths, tokens fastest.
struct Tile {
  int panel = 0, token_tile = 0, eighth = 0, first_step = 0, steps = 0;
};

template <typename K>
struct Tiles {
  int steps, tile_panels, token_tiles, count;
  __device__ __forceinline__ Tiles(const Product& p, const Cut& cut, int rows)
      : steps(static_cast<int>(Steps(p.columns))),
        tile_panels(cut.tile_panels),
        token_tiles((rows + K::kTokens - 1) / K::kTokens),
        count(cut.panel_tiles * token_tiles * (K::kSplit ? kEighths : 1)) {}
  __device__ __forceinline__ Tile At(int index) const {
    Tile tile;
    tile.token_tile = index % token_tiles;
    int rest = index / token_tiles;
    if (K::kSplit) {
      tile.eighth = rest % kEighths;
      rest /= kEighths;
      tile.first_step = EighthBegin(steps, tile.eighth);
      tile.steps = EighthBegin(steps, tile.eighth + 1) - tile.first_step;
    } else {
      tile.steps = steps;
    }
    tile.panel = rest * tile_panels;
    return tile;
  }
};

#ifdef MAMBAD_HAS_WARPGROUP_PRODUCTS

// Brings the tokens of a block's tiles, stage by stage, into a ring. One thread does.
template <typename K>
struct TokenBringer {
  int index, step = 0;  // of the next stage: its tile and step
  int produced = 0, slot = 0;
  Tile tile;

  // Asks for the next stage, if there is one, when the one that lay in its place has been used.
  __device__ __forceinline__ void Next(const Product& p, const Tiles<K>& tiles, uint4* stages,
                                       uint64_t* come, uint64_t* used) {
    if (index >= tiles.count) return;
    if (step == 0) tile = tiles.At(index);
    if (produced >= K::kStages) WaitForPhase(used + slot, (produced / K::kStages + 1) % 2);
    const int stage_steps = min(kStageSteps, tile.steps - step);
    const int64_t first = int64_t{tile.token_tile} * tiles.steps + tile.first_step + step;
    BringBytes(stages + slot * K::kStagePieces, p.token_tiles + first * K::kStepPieces,
               stage_steps * K::kStepPieces * 16, come + slot);
    ++produced;
    if (++slot == K::kStages) slot = 0;
    step += kStageSteps;
    if (step >= tile.steps) step = 0, index += gridDim.x;
  }
};

// The stage that is multiplied.
template <typename K>
struct Stage {
  int slot = -1, parity = 1;
  __device__ __forceinline__ void Next() {
    if (++slot % K::kStages == 0) slot = 0, parity ^= 1;
  }
};

// A warp's weights: of its panel of a tile and of its panel of the next one. nullptr: none.
struct WarpWeights {
  const uint4 *here = nullptr, *next = nullptr;
  int next_steps = 0;

  __device__ static __forceinline__ const uint4* Of(const Product& p, const Tile& tile,
                                                    int tile_panels, int steps) {
    const int warp = threadIdx.x / kWarp, panel = tile.panel + warp;
    if (warp >= tile_panels || panel >= static_cast<int>(Panels(p.outputs))) return nullptr;
    return static_cast<const uint4*>(p.weights) +
           (int64_t{panel} * steps + tile.first_step) * kWarp + threadIdx.x % kWarp;
  }
  // The first kDepth steps of `here`.
  template <int kDepth>
  __device__ __forceinline__ void Begin(int steps, uint4 (&ahead)[kDepth]) const {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      ahead[i] = {};
      if (here != nullptr && i < steps) ahead[i] = LoadStreaming(here + i * kWarp);
    }
  }
  // What follows `step` in its place of the ring, `place`.
  template <int kDepth>
  __device__ __forceinline__ void Follow(int step, int steps, int place, uint4& ahead) const {
    if (step + kDepth < steps) {
      if (here != nullptr) ahead = LoadStreaming(here + (step + kDepth) * kWarp);
    } else if (place < next_steps) {
      ahead = next != nullptr ? LoadStreaming(next + place * kWarp) : uint4{};
    }
  }
};

template <typename K>
struct Block {
  const Product& p;
  const Tiles<K>& tiles;
  uint4* stages;
  uint64_t *come, *used;
  TokenBringer<K> bringer;
  Stage<K> stage;
  WarpWeights weights;
  uint4 ahead[K::kDepth];
  float chain[K::kSums];

  // Asks for tokens, waits for the next stage's; a right operand, of its first step.
  __device__ __forceinline__ uint64_t NextStage() {
    if (threadIdx.x == 0) bringer.Next(p, tiles, stages, come, used);
    __syncwarp();
    stage.Next();
    WaitForPhase(come + stage.slot, stage.parity);
    return RightOperand(SharedAddress(stages + stage.slot * K::kStagePieces), K::kTokens);
  }
  // This warp no longer needs the stage in `slot`.
  __device__ __forceinline__ void Leave(int slot) {
    if (threadIdx.x % kWarp == 0) Arrive(used + slot);
  }

  // All steps of a tile. fold(): an eighth stands in chain.
  template <typename Fold>
  __device__ __forceinline__ void Multiply(const Tile& tile, const Fold& fold) {
    int eighth = tile.eighth, end = 0, left = 0;
    const auto next_eighth = [&] {  // that has steps
      const int before = end;
      while (end == before && eighth < kEighths) {
        end = EighthBegin(tiles.steps, ++eighth) - tile.first_step;
      }
    };
    next_eighth();
    bool add = false;
    uint64_t right = 0;
#pragma unroll 1
    for (int base = 0; base < tile.steps; base += K::kDepth) {
#pragma unroll
      for (int i = 0; i < K::kDepth; ++i) {
        const int step = base + i;
        if (step >= tile.steps) break;
        if (i % kStageSteps == 0) {
          left = stage.slot;
          right = NextStage();
        }
        BeginProducts();
        WarpgroupTile<K::kTokens>::MultiplyAdd(ahead[i], right + i % kStageSteps * K::kStepPieces,
                                               add, chain);
        CommitProducts();
        add = true;
        WaitForProducts<1>();  // the step before this one is done
        if (step > 0) {
          constexpr int kDepth = K::kDepth;
          const int place = (i + kDepth - 1) % kDepth;
          weights.template Follow<kDepth>(step - 1, tile.steps, place, ahead[place]);
          if (i % kStageSteps == 0) Leave(left);
        }
        if (step + 1 == end) {
          WaitForProducts<0>();
          ReadBehind(chain);
          fold();
          add = false;
          next_eighth();
          if (step + 1 == tile.steps) {
            weights.template Follow<K::kDepth>(step, tile.steps, i, ahead[i]);
          }
        }
      }
    }
    Leave(stage.slot);
  }
};

// Scales of a tile's tokens, a warpgroup for itself.
template <typename K>
struct Scales {
  float* squares;  // [tokens][kEighths]
  float* scales;   // [tokens]

  __device__ __forceinline__ explicit Scales(float* shared) {
    const int group = threadIdx.x / kGroupThreads;
    squares = shared + group * K::kTokens * (kEighths + 1);
    scales = squares + K::kTokens * kEighths;
  }
  __device__ __forceinline__ void Ask(const Product& p, int first_token, int there) const {
    if (!p.normed) return;
    for (int i = threadIdx.x % kGroupThreads; i < K::kTokens; i += kGroupThreads) {
      const float* from = p.squares + int64_t{min(first_token + i, there - 1)} * kEighths;
      CopyAsync(squares + i * kEighths, from, true);
      CopyAsync(squares + i * kEighths + 4, from + 4, true);
    }
    CommitCopies();
  }
  __device__ __forceinline__ void Finish(const Product& p) const {
    if (!p.normed) return;
    WaitForCopies<0>();
    const int barrier = 1 + threadIdx.x / kGroupThreads;
    MeetWarpgroup(barrier);  // all have read the last tile's
    for (int i = threadIdx.x % kGroupThreads; i < K::kTokens; i += kGroupThreads) {
      scales[i] = FinishScale(squares + i * kEighths, 1, p.columns, p.epsilon);
    }
    MeetWarpgroup(barrier);
  }
};

// The sums of group j of eight tokens, of panel `panel`; `at`: the tile's first token.
__device__ __forceinline__ void PutGroup(const Product& p, int panel, int at, int j, int there,
                                         const float* scales, float4 sums) {
  const int lane = threadIdx.x % kWarp, inside = j * kGroupTokens + lane % 4 * 2;
  const float of[4] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int token = at + inside + e % 2;
    const int output = panel * kTileRows + lane / 4 + e / 2 * 8;
    if (token < there && output < p.outputs) {
      p.Put(token, output, of[e], p.normed ? scales[inside + e % 2] : 1);
    }
  }
}

// This warp's eighth of a panel is in `meeting`; the last of eight to come adds and puts them.
template <typename K>
__device__ __forceinline__ void Meet(const Product& p, const Meeting& meeting, int64_t place,
                                     int panel, int at, int there, const float* scales) {
  constexpr int kParts = K::kTokens / kGroupTokens;
  const int lane = threadIdx.x % kWarp;
  __threadfence();
  __syncwarp();
  int before = 0;
  if (lane == 0) before = atomicAdd(meeting.arrivals + place, 1);
  before = __shfl_sync(0xffffffffu, before, 0);
  if (before != kEighths - 1) return;
  __threadfence();
  const float4* sums = meeting.sums + place * kEighths * kParts * kWarp + lane;
#pragma unroll 2
  for (int j = 0; j < kParts; ++j) {
    if (at + j * kGroupTokens >= there) break;
    float4 parts[kEighths], sum = {};
#pragma unroll
    for (int e = 0; e < kEighths; ++e) parts[e] = __ldcg(sums + (e * kParts + j) * kWarp);
#pragma unroll
    for (int e = 0; e < kEighths; ++e) {
      sum.x += parts[e].x, sum.y += parts[e].y, sum.z += parts[e].z, sum.w += parts[e].w;
    }
    PutGroup(p, panel, at, j, there, scales, sum);
  }
  if (lane == 0) meeting.arrivals[place] = 0;
}

template <typename K>
__device__ __forceinline__ void MultiplyTiles(const Product& p, const Cut& cut,
                                              const Meeting& meeting) {
  extern __shared__ uint4 stages[];
  __shared__ uint64_t come[K::kStages], used[K::kStages];
  const Scales<K> scales(reinterpret_cast<float*>(stages + K::kStages * K::kStagePieces));
  if (threadIdx.x == 0) {
    for (int i = 0; i < K::kStages; ++i) {
      InitializeBarrier(come + i, 1);
      InitializeBarrier(used + i, static_cast<int>(blockDim.x) / kWarp);
    }
    PublishBarriers();
  }
  __syncthreads();
  // Weights are asked for before earlier kernels end; where there is one tile of tokens at most,
  // that can be done before the rows are known.
  const bool one = p.rows <= K::kTokens;
  if (!one) WaitForEarlierKernels();
  const Tiles<K> tiles(p, cut, one ? 1 : p.RowsThatThereAre());
  const int steps = tiles.steps, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int panels = static_cast<int>(Panels(p.outputs));
  Block<K> block{p, tiles, stages, come, used};
  int index = blockIdx.x;
  Tile tile;
  if (index < tiles.count) {
    tile = tiles.At(index);
    block.weights.here = WarpWeights::Of(p, tile, cut.tile_panels, steps);
  }
  block.weights.Begin(tile.steps, block.ahead);
  WaitForEarlierKernels();
  const int there = p.RowsThatThereAre();
  if (there <= 0) return;
  block.bringer.index = index;
  if (threadIdx.x == 0) {
    for (int i = 0; i < K::kAhead; ++i) block.bringer.Next(p, tiles, stages, come, used);
  }
  __syncwarp();
#pragma unroll 1
  for (; index < tiles.count; index += gridDim.x) {
    Tile next;
    block.weights.next = nullptr;
    if (index + static_cast<int>(gridDim.x) < tiles.count) {
      next = tiles.At(index + gridDim.x);
      block.weights.next = WarpWeights::Of(p, next, cut.tile_panels, steps);
    }
    block.weights.next_steps = next.steps;
    const int at = tile.token_tile * K::kTokens, panel = tile.panel + warp;
    const bool mine = block.weights.here != nullptr;
    scales.Ask(p, at, there);
    if constexpr (K::kSplit) {
      const int64_t place = int64_t{tile.token_tile} * panels + panel;
      float4* to = meeting.sums +
                   (place * kEighths + tile.eighth) * (K::kTokens / kGroupTokens) * kWarp + lane;
      block.Multiply(tile, [&] {
        if (!mine) return;
#pragma unroll
        for (int j = 0; j < K::kTokens / kGroupTokens; ++j) {
          if (at + j * kGroupTokens >= there) break;
          const float* from = block.chain + j * 4;
          __stcg(to + j * kWarp, float4{from[0], from[1], from[2], from[3]});
        }
      });
      LetNextKernelBegin();
      scales.Finish(p);
      if (mine) Meet<K>(p, meeting, place, panel, at, there, scales.scales);
    } else {
      float total[K::kSums] = {};
      block.Multiply(tile, [&] {
#pragma unroll
        for (int i = 0; i < K::kSums; ++i) total[i] += block.chain[i];
      });
      LetNextKernelBegin();
      scales.Finish(p);
      if (mine) {
#pragma unroll
        for (int j = 0; j < K::kTokens / kGroupTokens; ++j) {
          const float* from = total + j * 4;
          PutGroup(p, panel, at, j, there, scales.scales, {from[0], from[1], from[2], from[3]});
        }
      }
    }
    tile = next;
    block.weights.here = block.weights.next;
  }
}

#endif  // MAMBAD_HAS_WARPGROUP_PRODUCTS

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_LINEAR_WARPGROUPS_CUH_
