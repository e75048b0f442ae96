// The kernel of products of more than eight rows with bfloat16 weights on GPUs whose warpgroups
// multiply (warpgroup.cuh). A warp has a panel of weights; each of its lanes brings what its own
// registers multiply through a ring in shared memory that no other lane reads. Tokens come through
// shared memory, too, where all warps of a block use them. An element's sums are those of
// linear_few_rows.cu, in their order.

#ifndef MAMBAD_KERNELS_CUDA_LINEAR_WARPGROUPS_CUH_
#define MAMBAD_KERNELS_CUDA_LINEAR_WARPGROUPS_CUH_

#include <cstdint>

#include "kernels/cuda/linear_cut.h"
#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/packing.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/token_tiles.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace mambad::kernels::cuda {

inline constexpr int kGroupWarps = 4, kGroupThreads = kGroupWarps * kWarp;
inline constexpr int kStageAlignment = 1024;

// tokens: of a tile; groups: of warps that multiply, at most; ahead: stages that are asked for
// before they are used; split: a tile is one eighth of the columns.
template <int tokens, int groups, int ahead, bool split>
struct Kind {
  static constexpr int kTokens = tokens, kGroups = groups, kAhead = ahead;
  static constexpr bool kSplit = split;
  // One more warpgroup brings tokens, and leaves its registers to the others.
  static constexpr int kThreads = (kGroups + 1) * kGroupThreads;
  static constexpr int kRegisters = kGroups == 2 ? 240 : kGroups == 3 ? 160 : 112;
  static constexpr int kStages = kAhead + 2;  // of tokens that there is room for
  static constexpr int kSums = kTokens / 2;   // of a lane
  static constexpr int kStagePieces = kTokens * kTokenPieces;
  static constexpr int kRingPieces = kAhead * kStageSteps * kWarp;  // a warp's weights
  static constexpr int kWeightPieces = kGroups * kGroupWarps * kRingPieces;
  static constexpr int kScaleBytes = kGroups * kTokens * (kEighths + 1) * int{sizeof(float)};
  static constexpr int kSharedBytes =
      (kStages * kStagePieces + kWeightPieces) * 16 + kScaleBytes + kStageAlignment;
  static_assert(kGroups >= 2 && kGroups <= 4);
  // Sums go where the weights were that they are of.
  static_assert(!kSplit || kTokens * kTileRows * int{sizeof(float)} <= kRingPieces * 16);
  static_assert(kSharedBytes <= 226 * 1024);
};

struct Tile {
  int panel = 0, token_tile = 0, eighth = 0;
};

// What is cut how: tiles of panels and tokens, tokens fastest; where split, each as a cluster of
// blocks with an eighth of the columns each. An eighth is whole stages.
template <typename K>
struct Tiles {
  int steps, eighth_stages, stages;  // of all columns; of a tile
  int tile_panels, token_tiles, count;
  __device__ __forceinline__ Tiles(const Product& p, const Cut& cut, int rows)
      : steps(static_cast<int>(Steps(p.columns))),
        eighth_stages(steps / (kEighths * kStageSteps)),
        stages(eighth_stages * (K::kSplit ? 1 : kEighths)),
        tile_panels(cut.tile_panels),
        token_tiles((rows + K::kTokens - 1) / K::kTokens),
        count(cut.panel_tiles * token_tiles * (K::kSplit ? kEighths : 1)) {}
  __device__ __forceinline__ Tile At(int index) const {
    Tile tile;
    tile.eighth = K::kSplit ? index % kEighths : 0;
    if (K::kSplit) index /= kEighths;
    tile.token_tile = index % token_tiles;
    tile.panel = index / token_tiles * tile_panels;
    return tile;
  }
  __device__ __forceinline__ int FirstStep(const Tile& tile) const {
    return tile.eighth * eighth_stages * kStageSteps;
  }
};

#ifdef MAMBAD_HAS_WARPGROUP_PRODUCTS

// Of a number that all lanes have: the compiler knows it, too.
__device__ __forceinline__ int Same(int number) { return __shfl_sync(0xffffffffu, number, 0); }

// The rings of a block, in shared memory.
template <typename K>
struct Shared {
  uint4* stages;          // tokens, [kStages][kTokens][kTokenPieces], as SwizzledPiece says
  uint64_t *come, *used;  // when a stage has come, when it is no longer needed
};

// Brings the tokens of a block's tiles, stage by stage. One thread does.
template <typename K>
__device__ __forceinline__ void BringTokens(const Product& p, const Tiles<K>& tiles,
                                            const Shared<K>& shared) {
  int slot = 0, round = 0;
#pragma unroll 1
  for (int index = blockIdx.x; index < tiles.count; index += gridDim.x) {
    const Tile tile = tiles.At(index);
    const uint4* from =
        p.token_tiles + (int64_t{tile.token_tile} * tiles.steps + tiles.FirstStep(tile)) *
                            (K::kTokens * kStepPieces);
#pragma unroll 1
    for (int i = 0; i < tiles.stages; ++i, from += K::kStagePieces) {
      if (round > 0) WaitForPhase(shared.used + slot, (round + 1) % 2);
      BringBytes(shared.stages + slot * K::kStagePieces, from, K::kStagePieces * 16,
                 shared.come + slot);
      if (++slot == K::kStages) slot = 0, ++round;
    }
  }
}

// A lane's weights of a stage.
using StageWeights = uint4[kStageSteps];

// What a warp that multiplies does to a tile. Its weights come through a ring of each lane's own.
template <typename K>
struct Multiplier {
  const Product& p;
  const Tiles<K>& tiles;
  const Shared<K>& shared;
  int warp;       // of those that multiply
  uint4* ring;    // [kAhead][kStageSteps][32 lanes], at this lane
  int ask_index;  // tile and stage whose weights are asked for next
  int ask_stage = 0;
  const uint4* from = nullptr;  // these; nullptr: this warp has no panel
  int place = 0;                // in the ring, of the next stage
  int slot = -1, parity = 1;    // of the stage that is multiplied

  __device__ __forceinline__ void FindWeights() {
    from = nullptr;
    if (ask_index >= tiles.count || warp >= tiles.tile_panels) return;
    const Tile tile = tiles.At(ask_index);
    const int panel = tile.panel + warp;
    if (panel >= static_cast<int>(Panels(p.outputs))) return;
    from = static_cast<const uint4*>(p.weights) +
           (int64_t{panel} * tiles.steps + tiles.FirstStep(tile)) * kWarp + threadIdx.x % kWarp;
  }
  __device__ __forceinline__ void AskForWeights() {
    if (from != nullptr) {
#pragma unroll
      for (int i = 0; i < kStageSteps; ++i) {
        CopyAsync(ring + (place * kStageSteps + i) * kWarp, from + i * kWarp, true);
      }
      from += kStageSteps * kWarp;
    }
    CommitCopies();
    if (++place == K::kAhead) place = 0;
    if (++ask_stage == tiles.stages) {
      ask_stage = 0;
      ask_index += gridDim.x;
      FindWeights();
    }
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
  __device__ __forceinline__ void Leave(int left_slot) const {
    if (threadIdx.x % kWarp == 0) Arrive(shared.used + left_slot);
  }

  // Begins the products of the next stage; those of the one before it, if it is not the tile's
  // `first`, are done. Asks for what comes later; takes `next`, if `more`.
  __device__ __forceinline__ void Stage(const StageWeights& weights, bool first, StageWeights& next,
                                        bool more, float (&chain)[K::kSums]) {
    const int before = slot;
    if (++slot % K::kStages == 0) slot = 0, parity ^= 1;
    WaitForPhase(shared.come + slot, parity);
    const uint64_t right = RightOperand(SharedAddress(shared.stages + slot * K::kStagePieces));
    BeginProducts();
#pragma unroll
    for (int i = 0; i < kStageSteps; ++i) {
      WarpgroupTile<K::kTokens>::MultiplyAdd(weights[i], right + i * kStepPieces, chain);
    }
    CommitProducts();
    AskForWeights();
    WaitForProducts<1>();
    if (!first) Leave(before);
    if (more) Take(next);
  }
  // All stages of a tile. fold(chain): the sums of an eighth.
  template <typename Fold>
  __device__ __forceinline__ void Multiply(const Fold& fold) {
#pragma unroll 1
    for (int eighth = 0; eighth < (K::kSplit ? 1 : kEighths); ++eighth) {
      float chain[K::kSums] = {};
      StageWeights even, odd;
      Take(even);
#pragma unroll 1
      for (int left = tiles.eighth_stages; left > 0; left -= 2) {
        Stage(even, eighth == 0 && left == tiles.eighth_stages, odd, left > 1, chain);
        if (left > 1) Stage(odd, false, even, left > 2, chain);
      }
      WaitForProducts<0>();
      ReadBehind(chain);
      fold(chain);
    }
    Leave(slot);
  }
};

// Scales of a tile's tokens, a warpgroup for itself.
template <typename K>
struct Scales {
  float* squares;  // [tokens][kEighths]
  float* scales;   // [tokens]

  __device__ __forceinline__ explicit Scales(float* shared) {
    const int group = static_cast<int>(threadIdx.x) / kGroupThreads - 1;
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
  // stages: multiplied since they were asked for.
  __device__ __forceinline__ void Finish(const Product& p, int stages) const {
    if (!p.normed) return;
    if (stages <= K::kAhead) WaitForCopies<0>();  // else they came before weights that were taken
    const int barrier = threadIdx.x / kGroupThreads;  // 0 is the whole block's
    MeetWarpgroup(barrier);                           // all have read the last tile's
    for (int i = threadIdx.x % kGroupThreads; i < K::kTokens; i += kGroupThreads) {
      scales[i] = FinishScale(squares + i * kEighths, 1, p.columns, p.epsilon);
    }
    MeetWarpgroup(barrier);
  }
};

// Of group j of eight tokens and a panel, the places of a lane's four sums. `at`: the tile's first
// token.
struct Places {
  int inside, first_token, output;  // inside: of the tile's tokens

  __device__ __forceinline__ Places(int panel, int at, int j) {
    const int lane = threadIdx.x % kWarp;
    inside = j * kGroupTokens + lane % 4 * 2;
    first_token = at + inside;
    output = panel * kTileRows + lane / 4;
  }
  __device__ __forceinline__ int Token(int e) const { return first_token + e % 2; }
  __device__ __forceinline__ int Output(int e) const { return output + e / 2 * 8; }
  __device__ __forceinline__ bool Has(const Product& p, int e, int there) const {
    return Token(e) < there && Output(e) < p.outputs;
  }
};

__device__ __forceinline__ float4 BeforeGroup(const Product& p, const Places& places, int there) {
  float before[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    before[e] = places.Has(p, e, there) ? p.Before(places.Token(e), places.Output(e)) : 0;
  }
  return {before[0], before[1], before[2], before[3]};
}

__device__ __forceinline__ void PutGroup(const Product& p, const Places& places, int there,
                                         const float* scales, float4 sums, float4 before) {
  const float of[4] = {sums.x, sums.y, sums.z, sums.w};
  const float was[4] = {before.x, before.y, before.z, before.w};
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (places.Has(p, e, there)) {
      p.Put(places.Token(e), places.Output(e), of[e], p.normed ? scales[places.inside + e % 2] : 1,
            was[e]);
    }
  }
}

// A panel's sums of a tile, some of whose tokens or outputs there may not be.
template <typename K>
__device__ __forceinline__ void PutPart(const Product& p, int panel, int at, int there,
                                        const float* scales, const float (&sums)[K::kSums]) {
#pragma unroll
  for (int j = 0; j < K::kTokens / kGroupTokens; ++j) {
    const float* from = sums + j * 4;
    const Places places(panel, at, j);
    PutGroup(p, places, there, scales, {from[0], from[1], from[2], from[3]},
             BeforeGroup(p, places, there));
  }
}

// As PutPart, as Product::Put would; all are there: nothing is asked of each, and what is added to
// comes at once.
template <typename K>
__device__ __forceinline__ void PutWhole(const Product& p, int panel, int at, const float* scales,
                                         float (&sums)[K::kSums]) {
  constexpr int kParts = K::kTokens / kGroupTokens;
  const Places places(panel, at, 0);
  float* const y = p.y + places.Token(0) * p.y_stride + places.Output(0);
  const auto place = [&](int i) {
    return y + (i / 4 * kGroupTokens + i % 2) * p.y_stride + i % 4 / 2 * 8;
  };
  float before[K::kSums];
  if (p.add) {
#pragma unroll
    for (int i = 0; i < K::kSums; ++i) before[i] = *place(i);
  }
  if (p.normed) {
#pragma unroll
    for (int j = 0; j < kParts; ++j) {
      const float2 scale = *reinterpret_cast<const float2*>(scales + places.inside + j * 8);
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[j * 4 + e] *= e % 2 == 0 ? scale.x : scale.y;
    }
  }
  if (p.add) {
#pragma unroll
    for (int i = 0; i < K::kSums; ++i) sums[i] = before[i] + sums[i];
  }
  if (p.bias != nullptr) {
    const float bias[2] = {p.bias[places.Output(0)], p.bias[places.Output(2)]};
#pragma unroll
    for (int i = 0; i < K::kSums; ++i) sums[i] += bias[i % 4 / 2];
  }
#pragma unroll
  for (int i = 0; i < K::kSums; ++i) *place(i) = sums[i];
}

// What the warps of a cluster make of a tile's sums: each adds up some panels' groups of tokens.
template <typename K>
struct Meeting {
  static constexpr int kParts = K::kTokens / kGroupTokens;           // groups of a panel
  static constexpr int kTurns = (kParts + kEighths - 1) / kEighths;  // of a warp, at most
  const Product& p;
  const Cut& cut;
  Tile tile;
  int warp, panels, there;
  const float4* rings;  // a warp's sums begin where its ring does, [kParts][32 lanes]
  float4 before[kTurns];

  // The panel of the tile and the group of turn i; false: there is none.
  __device__ __forceinline__ bool Find(int i, int& panel, int& group) const {
    const int warps = static_cast<int>(blockDim.x) / kWarp - kGroupWarps;
    const int number = tile.eighth + kEighths * (warp + i * warps);
    panel = number / kParts;
    group = number % kParts;
    return panel < cut.tile_panels && tile.panel + panel < panels &&
           tile.token_tile * K::kTokens + group * kGroupTokens < there;
  }
  __device__ __forceinline__ Places At(int panel, int group) const {
    return Places(tile.panel + panel, tile.token_tile * K::kTokens, group);
  }
  // What can be done before all have come.
  __device__ __forceinline__ void Begin() {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      int panel, group;
      if (Find(i, panel, group)) before[i] = BeforeGroup(p, At(panel, group), there);
    }
  }
  __device__ __forceinline__ void AddUp(const float* scales) const {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      int panel, group;
      if (!Find(i, panel, group)) continue;
      const float4* const from =
          rings + panel * K::kRingPieces + group * kWarp + threadIdx.x % kWarp;
      float4 parts[kEighths], sum = {};
#pragma unroll
      for (int e = 0; e < kEighths; ++e) parts[e] = LoadOfBlock(from, e);
#pragma unroll
      for (int e = 0; e < kEighths; ++e) {
        sum.x += parts[e].x, sum.y += parts[e].y, sum.z += parts[e].z, sum.w += parts[e].w;
      }
      PutGroup(p, At(panel, group), there, scales, sum, before[i]);
    }
  }
};

// This block's tile, an eighth of the columns.
template <typename K>
__device__ __forceinline__ void MultiplyEighth(const Product& p, const Cut& cut,
                                               const Shared<K>& shared, uint4* rings) {
  const Tiles<K> tiles(p, cut, p.rows);
  const int warp = static_cast<int>(threadIdx.x) / kWarp - kGroupWarps, lane = threadIdx.x % kWarp;
  const int panels = static_cast<int>(Panels(p.outputs)), index = blockIdx.x;
  const Scales<K> scales(reinterpret_cast<float*>(rings + K::kWeightPieces));
  uint4* const ring = rings + warp * K::kRingPieces;
  Multiplier<K> multiplier{p, tiles, shared, warp, ring + lane, index};
  multiplier.FindWeights();
#pragma unroll 1
  for (int i = 0; i < K::kAhead; ++i) multiplier.AskForWeights();
  WaitForEarlierKernels();
  const int there = Same(p.RowsThatThereAre());
  const Tile tile = tiles.At(index);
  if (tile.token_tile * K::kTokens >= there) return;  // nor has the rest of the cluster any
  scales.Ask(p, tile.token_tile * K::kTokens, there);
  multiplier.Multiply([&](const float(&chain)[K::kSums]) {
    __syncwarp();  // all of its lanes have taken the last weights
    float4* const to = reinterpret_cast<float4*>(ring) + lane;
#pragma unroll
    for (int j = 0; j < K::kTokens / kGroupTokens; ++j) {
      const float* from = chain + j * 4;
      to[j * kWarp] = {from[0], from[1], from[2], from[3]};
    }
  });
  LetNextKernelBegin();
  ArriveAtCluster();
  Meeting<K> meeting{p, cut, tile, warp, panels, there, reinterpret_cast<const float4*>(rings)};
  meeting.Begin();
  scales.Finish(p, tiles.stages);
  WaitForCluster();
  meeting.AddUp(scales.scales);
  ArriveAtCluster();
  WaitForCluster();  // a block's sums stay until all have read them
}

// The tiles of a warpgroup's four warps, of all columns.
template <typename K>
__device__ __forceinline__ void MultiplyTiles(const Product& p, const Cut& cut,
                                              const Shared<K>& shared, uint4* rings) {
  // Weights are asked for before earlier kernels end; where there is one tile of tokens at most,
  // that can be done before the rows are known.
  const bool one = p.rows <= K::kTokens;
  if (!one) WaitForEarlierKernels();
  const Tiles<K> tiles(p, cut, one ? 1 : Same(p.RowsThatThereAre()));
  const int warp = static_cast<int>(threadIdx.x) / kWarp - kGroupWarps, lane = threadIdx.x % kWarp;
  const int panels = static_cast<int>(Panels(p.outputs));
  const Scales<K> scales(reinterpret_cast<float*>(rings + K::kWeightPieces));
  int index = blockIdx.x;
  Multiplier<K> multiplier{p, tiles, shared, warp, rings + warp * K::kRingPieces + lane, index};
  multiplier.FindWeights();
#pragma unroll 1
  for (int i = 0; i < K::kAhead; ++i) multiplier.AskForWeights();
  WaitForEarlierKernels();
  const int there = Same(p.RowsThatThereAre());
  if (there <= 0) return;
#pragma unroll 1
  for (; index < tiles.count; index += gridDim.x) {
    const Tile tile = tiles.At(index);
    const int at = tile.token_tile * K::kTokens, panel = tile.panel + warp;
    scales.Ask(p, at, there);
    float total[K::kSums] = {};
    multiplier.Multiply([&](const float(&chain)[K::kSums]) {
#pragma unroll
      for (int i = 0; i < K::kSums; ++i) total[i] += chain[i];
    });
    LetNextKernelBegin();
    scales.Finish(p, tiles.stages);
    if (warp >= cut.tile_panels || panel >= panels) continue;
    if (at + K::kTokens <= there && (panel + 1) * kTileRows <= p.outputs) {
      PutWhole<K>(p, panel, at, scales.scales, total);
    } else {
      PutPart<K>(p, panel, at, there, scales.scales, total);
    }
  }
}

// What a block does: its first warpgroup brings tokens, the others multiply.
template <typename K>
__device__ __forceinline__ void MultiplyInBlock(const Product& p, const Cut& cut) {
  extern __shared__ uint4 shared_memory[];
  const uint32_t begin = SharedAddress(shared_memory);
  uint4* const stages = shared_memory + (-begin % kStageAlignment) / 16;
  __shared__ uint64_t come[K::kStages], used[K::kStages];
  if (threadIdx.x == 0) {
    for (int i = 0; i < K::kStages; ++i) {
      InitializeBarrier(come + i, 1);
      InitializeBarrier(used + i, static_cast<int>(blockDim.x) / kWarp - kGroupWarps);
    }
    PublishBarriers();
  }
  __syncthreads();
  const Shared<K> shared{stages, come, used};
  if (threadIdx.x < kGroupThreads) {
    GiveRegisters<24>();
    WaitForEarlierKernels();
    const int there = p.RowsThatThereAre();
    // A block of eighths has one tile, whatever rows there are.
    const Tiles<K> tiles(p, cut, K::kSplit ? p.rows : there);
    const int first = K::kSplit ? tiles.At(blockIdx.x).token_tile * K::kTokens : 0;
    if (threadIdx.x == 0 && there > first) BringTokens(p, tiles, shared);
  } else {
    TakeRegisters<K::kRegisters>();
    uint4* const rings = stages + K::kStages * K::kStagePieces;
    if constexpr (K::kSplit) {
      MultiplyEighth<K>(p, cut, shared, rings);
    } else {
      MultiplyTiles<K>(p, cut, shared, rings);
    }
  }
}

#endif  // MAMBAD_HAS_WARPGROUP_PRODUCTS

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_LINEAR_WARPGROUPS_CUH_
