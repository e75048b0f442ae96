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
inline constexpr int kStageSteps = 4;  // steps that are asked for and multiplied together

// tokens: of a tile; groups: of warps, at most; ahead: stages that are asked for before they are
// used; split: a tile is one eighth of the columns.
template <int tokens, int groups, int ahead, bool split>
struct Kind {
  static constexpr int kTokens = tokens, kGroups = groups, kAhead = ahead;
  static constexpr bool kSplit = split;
  static constexpr int kStages = kAhead + 2;       // of tokens that there is room for
  static constexpr int kSums = kTokens / 2;        // of a lane
  static constexpr int kStepPieces = 2 * kTokens;  // of 16 bytes, a step's tokens
  static constexpr int kStagePieces = kStageSteps * kStepPieces;
  static constexpr int kRingPieces = kAhead * kStageSteps * kWarp;  // a warp's weights
  static constexpr int kWeightPieces = kGroups * kGroupWarps * kRingPieces;
  static constexpr int kScaleBytes = kGroups * kTokens * (kEighths + 1) * int{sizeof(float)};
  static constexpr int kSharedBytes = (kStages * kStagePieces + kWeightPieces) * 16 + kScaleBytes;
  static_assert(kSharedBytes <= 226 * 1024);
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

// Of a number that all lanes have: the compiler knows it, too.
__device__ __forceinline__ int Same(int number) { return __shfl_sync(0xffffffffu, number, 0); }

// A block's tiles, stage by stage. A stage is up to kStageSteps steps of one eighth.
template <typename K>
struct Cursor {
  int index = 0;  // the tile
  Tile tile;
  int eighth = 0, step = 0, end = 0;  // of the tile; where the eighth ends
  int length = 0;                     // of the stage, steps; 0: there are no more

  __device__ __forceinline__ void Begin(const Tiles<K>& tiles, int first) {
    index = first;
    length = 0;
    if (index >= tiles.count) return;
    tile = tiles.At(index);
    eighth = tile.eighth;
    step = 0;
    end = EighthBegin(tiles.steps, eighth + 1) - tile.first_step;
    SetLength(tiles);
  }
  __device__ __forceinline__ void Next(const Tiles<K>& tiles) {
    step += length;
    if (length != 0 && step == tile.steps) {
      Begin(tiles, index + static_cast<int>(gridDim.x));
    } else {
      SetLength(tiles);
    }
  }

 private:
  __device__ __forceinline__ void SetLength(const Tiles<K>& tiles) {
    if (index >= tiles.count) return;
    while (end == step) end = EighthBegin(tiles.steps, ++eighth + 1) - tile.first_step;
    length = min(kStageSteps, end - step);
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

// A lane's weights of a stage.
using StageWeights = uint4[kStageSteps];

template <typename K>
struct Block {
  const Product& p;
  const Tiles<K>& tiles;
  uint4* stages;                // tokens, [kStages]
  uint64_t *come, *used;        // of stages
  uint4* ring;                  // weights, [kAhead][kStageSteps][32 lanes], at this lane
  Cursor<K> cursor;             // what is asked for next
  const uint4* from = nullptr;  // its weights; nullptr: this warp has no panel
  int ask_slot = 0, ask_round = 0, place = 0;
  Stage<K> stage;

  __device__ __forceinline__ void FindWeights() {
    const int warp = threadIdx.x / kWarp, panel = cursor.tile.panel + warp;
    from = nullptr;
    if (cursor.length == 0 || warp >= tiles.tile_panels) return;
    if (panel >= static_cast<int>(Panels(p.outputs))) return;
    from = static_cast<const uint4*>(p.weights) +
           (int64_t{panel} * tiles.steps + cursor.tile.first_step) * kWarp + threadIdx.x % kWarp;
  }
  __device__ __forceinline__ void AskForWeights() {
    if (from != nullptr) {
#pragma unroll
      for (int i = 0; i < kStageSteps; ++i) {
        if (i < cursor.length) {
          CopyAsync(ring + (place * kStageSteps + i) * kWarp, from + i * kWarp, true);
        }
      }
      from += cursor.length * kWarp;
    }
    CommitCopies();
    if (++place == K::kAhead) place = 0;
  }
  // One thread does, for all.
  __device__ __forceinline__ void AskForTokens(const Cursor<K>& at) {
    if (at.length == 0) return;
    if (ask_round > 0) WaitForPhase(used + ask_slot, (ask_round + 1) % 2);
    const int64_t first = int64_t{at.tile.token_tile} * tiles.steps + at.tile.first_step + at.step;
    BringBytes(stages + ask_slot * K::kStagePieces, p.token_tiles + first * K::kStepPieces,
               at.length * K::kStepPieces * 16, come + ask_slot);
    if (++ask_slot == K::kStages) ask_slot = 0, ++ask_round;
  }
  __device__ __forceinline__ void Advance() {
    const int before = cursor.index;
    cursor.Next(tiles);
    if (cursor.index != before) FindWeights();
  }
  // The weights of the stage that lies in `place`, when they have come.
  __device__ __forceinline__ void Take(StageWeights& weights) const {
    WaitForCopies<K::kAhead - 1>();
#pragma unroll
    for (int i = 0; i < kStageSteps; ++i) {
      weights[i] = ring[(place * kStageSteps + i) * kWarp];
    }
  }
  // This warp no longer needs the stage in `slot`.
  __device__ __forceinline__ void Leave(int slot) {
    if (threadIdx.x % kWarp == 0) Arrive(used + slot);
  }

  // Begins the products of the next stage, of `length` steps; those of the one before it, if it is
  // not the tile's `first`, are done. Asks for what comes later; takes `next`, if `more`.
  __device__ __forceinline__ void Multiply(int length, const StageWeights& weights, bool first,
                                           StageWeights& next, bool more,
                                           float (&chain)[K::kSums]) {
    const int before = stage.slot;
    stage.Next();
    WaitForPhase(come + stage.slot, stage.parity);
    const uint64_t right =
        RightOperand(SharedAddress(stages + stage.slot * K::kStagePieces), K::kTokens);
    const auto product = [&](int i) {
      WarpgroupTile<K::kTokens>::MultiplyAdd(weights[i], right + i * K::kStepPieces, chain);
    };
    BeginProducts();
    if (length >= kStageSteps) {  // mostly
#pragma unroll
      for (int i = 0; i < kStageSteps; ++i) product(i);
    } else {
#pragma unroll
      for (int i = 0; i < kStageSteps - 1; ++i) {
        if (i < length) product(i);
      }
    }
    CommitProducts();
    AskForWeights();
    WaitForProducts<1>();
    if (!first) Leave(before);
    if (more) Take(next);
    if (threadIdx.x == 0) AskForTokens(cursor);
    __syncwarp();
    Advance();
  }
  // All stages of a tile. fold(chain): the sums of an eighth.
  template <typename Fold>
  __device__ __forceinline__ void Multiply(const Tile& tile, const Fold& fold) {
    int step = 0;
#pragma unroll 1
    for (int eighth = tile.eighth; step < tile.steps; ++eighth) {
      const int end = EighthBegin(tiles.steps, eighth + 1) - tile.first_step;
      float chain[K::kSums] = {};
      StageWeights even, odd;
      Take(even);
#pragma unroll 1
      for (; step < end; step += 2 * kStageSteps) {
        const int left = end - step;
        Multiply(left, even, step == 0, odd, left > kStageSteps, chain);
        if (left > kStageSteps) {
          Multiply(left - kStageSteps, odd, false, even, left > 2 * kStageSteps, chain);
        }
      }
      WaitForProducts<0>();
      ReadBehind(chain);
      fold(chain);
      step = end;
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
  }
  // steps: taken since they were asked for.
  __device__ __forceinline__ void Finish(const Product& p, int steps) const {
    if (!p.normed) return;
    if (steps <= K::kAhead * kStageSteps)
      WaitForCopies<0>();  // else they came before weights that were taken
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
  uint4* const rings = stages + K::kStages * K::kStagePieces;
  const Scales<K> scales(reinterpret_cast<float*>(rings + K::kWeightPieces));
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
  const Tiles<K> tiles(p, cut, one ? 1 : Same(p.RowsThatThereAre()));
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int panels = static_cast<int>(Panels(p.outputs));
  Block<K> block{p, tiles, stages, come, used, rings + warp * K::kRingPieces + lane};
  int index = blockIdx.x;
  block.cursor.Begin(tiles, index);
  Cursor<K> tokens = block.cursor;
  block.FindWeights();
#pragma unroll 1
  for (int i = 0; i < K::kAhead; ++i) {
    block.AskForWeights();
    block.Advance();
  }
  WaitForEarlierKernels();
  const int there = Same(p.RowsThatThereAre());
  if (there <= 0) return;
  if (threadIdx.x == 0) {
#pragma unroll 1
    for (int i = 0; i < K::kAhead; ++i, tokens.Next(tiles)) block.AskForTokens(tokens);
  }
  __syncwarp();
#pragma unroll 1
  for (; index < tiles.count; index += gridDim.x) {
    const Tile tile = tiles.At(index);
    const int at = tile.token_tile * K::kTokens, panel = tile.panel + warp;
    const bool mine = warp < cut.tile_panels && panel < panels;
    scales.Ask(p, at, there);
    if constexpr (K::kSplit) {
      const int64_t place = int64_t{tile.token_tile} * panels + panel;
      float4* to = meeting.sums +
                   (place * kEighths + tile.eighth) * (K::kTokens / kGroupTokens) * kWarp + lane;
      block.Multiply(tile, [&](const float(&chain)[K::kSums]) {
        if (!mine) return;
#pragma unroll
        for (int j = 0; j < K::kTokens / kGroupTokens; ++j) {
          if (at + j * kGroupTokens >= there) break;
          const float* from = chain + j * 4;
          __stcg(to + j * kWarp, float4{from[0], from[1], from[2], from[3]});
        }
      });
      LetNextKernelBegin();
      scales.Finish(p, tile.steps);
      if (mine) Meet<K>(p, meeting, place, panel, at, there, scales.scales);
    } else {
      float total[K::kSums] = {};
      block.Multiply(tile, [&](const float(&chain)[K::kSums]) {
#pragma unroll
        for (int i = 0; i < K::kSums; ++i) total[i] += chain[i];
      });
      LetNextKernelBegin();
      scales.Finish(p, tile.steps);
      if (mine) {
#pragma unroll
        for (int j = 0; j < K::kTokens / kGroupTokens; ++j) {
          const float* from = total + j * 4;
          PutGroup(p, panel, at, j, there, scales.scales, {from[0], from[1], from[2], from[3]});
        }
      }
    }
  }
}

#endif  // MAMBAD_HAS_WARPGROUP_PRODUCTS

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_LINEAR_WARPGROUPS_CUH_
