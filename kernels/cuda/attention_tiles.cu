// Causal attention over pages of bf16 on tensor cores.
//
// A warp has 16 queries, pairs of a row and a query head, of one key/value head; where there are no
// more, four warps share them, a quarter of a step's keys and then of the columns each. A block's
// warps share the keys and values that come into shared memory, 64 positions a step, while the step
// before is computed with. Queries and weights, which are float32, are two bf16 numbers each, high
// and low, and so is every product: what they leave out is below 2^-16 of it. A row's sums are
// those of its stretches, each by steps that begin at multiples of kStep with a running maximum: a
// row's bits follow from its position and its window, not from the tile that it shares. Keys that a
// row does not see weigh exactly nothing in it.

#include <algorithm>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_heads.h"
#include "kernels/cuda/attention_sums.cuh"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kQueries = 16;  // of a warp
constexpr int kStages = 2;    // steps in shared memory

// kTogether: warps that share their queries, 1 or all of them.
template <int kWidth, int kWarps, int kTogether>
struct TileMemory {
  static constexpr int kTiles = kWarps / kTogether;
  alignas(128) uint16_t keys[kStages][kStep * kWidth];
  alignas(128) uint16_t values[kStages][kStep * kWidth];
  alignas(128) uint16_t high[kTiles][kQueries * kWidth], low[kTiles][kQueries * kWidth];
};

// ---- queries ------------------------------------------------------------------------------------

// Queries [first, first + count) of one key/value head of a sequence, counted row by row.
struct BlockTile {
  int row_begin = 0, position = 0;  // of the sequence's rows
  int first = 0, count = 0, group = 1, key_head = 0;
  int oldest = 0, newest = 0;  // positions that some query sees
  const int32_t* pages = nullptr;
};

// False: there is no such tile.
__device__ bool FindTile(const AttentionArguments& arguments, int64_t item, int tile_queries,
                         BlockTile& tile) {
  const Batch& batch = arguments.batch;
  tile.group = arguments.group();
  tile.key_head = blockIdx.y;
  const SequenceTile found = TileOfItem(batch, item, tile_queries, tile.group);
  const int64_t queries = found.rows * tile.group;
  if (found.first >= queries) return false;
  tile.row_begin = static_cast<int>(found.row_begin);
  tile.position = batch.position[found.sequence];
  tile.first = static_cast<int>(found.first);
  tile.count = static_cast<int>(min(int64_t{tile_queries}, queries - found.first));
  tile.oldest = static_cast<int>(arguments.Oldest(tile.position + tile.first / tile.group));
  tile.newest = tile.position + (tile.first + tile.count - 1) / tile.group;
  tile.pages = batch.pages + int64_t{batch.slot[found.sequence]} * batch.pages_per_sequence;
  return true;
}

__device__ Query QueryOf(const AttentionArguments& arguments, const BlockTile& tile, int index) {
  Query query;
  if (index >= tile.count) return query;
  const int in_sequence = (tile.first + index) / tile.group;
  query.row = tile.row_begin + in_sequence;
  query.head = tile.key_head * tile.group + (tile.first + index) % tile.group;
  query.newest = tile.position + in_sequence;
  query.oldest = static_cast<int>(arguments.Oldest(query.newest));
  return query;
}

// The queries of a tile of the block, halved; zeros where there are none.
template <int kWidth, int kWarps, int kTogether>
__device__ void LoadQueries(const AttentionArguments& arguments, const BlockTile& tile,
                            TileMemory<kWidth, kWarps, kTogether>& memory) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, of_block = warp / kTogether;
  uint32_t* const high = reinterpret_cast<uint32_t*>(memory.high[of_block]);
  uint32_t* const low = reinterpret_cast<uint32_t*>(memory.low[of_block]);
#pragma unroll 4
  for (int i = warp % kTogether; i < kQueries; i += kTogether) {
    const Query query = QueryOf(arguments, tile, of_block * kQueries + i);
    const float* const from =
        query.row < 0 ? nullptr
                      : RowOf(arguments.projected, query.row) + int64_t{query.head} * kWidth;
#pragma unroll
    for (int k = lane; k < kWidth / 2; k += kWarp) {
      uint32_t high_pair = 0, low_pair = 0;
      if (query.row >= 0) Split(from[2 * k], from[2 * k + 1], high_pair, low_pair);
      const int place = (Place<kWidth>(i, k / 4) + k % 4 * 2) / 2;
      high[place] = high_pair;
      low[place] = low_pair;
    }
  }
}

// ---- keys and values ----------------------------------------------------------------------------

// Keys and values of positions [step, step + kStep) begin to come; zeros for those that no query of
// the block sees, which are not read.
template <int kWidth, int kWarps, int kTogether>
__device__ void FetchStep(const AttentionArguments& arguments, const BlockTile& tile, int step,
                          int stage, TileMemory<kWidth, kWarps, kTogether>& memory) {
  constexpr int kChunks = kWidth / 8, kKeys = kWarps * kWarp / kChunks;  // keys at once
  constexpr int kPages = kStep / kPageTokens;
  const int first = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
  const int64_t page_numbers = int64_t{arguments.layer.key_value_heads} * kPageTokens * kWidth;
  const int64_t in_page = int64_t{tile.key_head} * kPageTokens * kWidth + chunk * 8;
  const uint16_t* const keys = reinterpret_cast<const uint16_t*>(arguments.state.keys) + in_page;
  const uint16_t* const values =
      reinterpret_cast<const uint16_t*>(arguments.state.values) + in_page;
  int32_t pages[kPages];
#pragma unroll
  for (int p = 0; p < kPages; ++p) {
    const int begin = step + p * kPageTokens;
    const bool seen = begin <= tile.newest && begin + kPageTokens > tile.oldest;
    pages[p] = seen ? tile.pages[begin / kPageTokens] : 0;
  }
#pragma unroll
  for (int round = 0; round < kStep / kKeys; ++round) {
    const int key = round * kKeys + first, position = step + key;
    int32_t page = pages[round * kKeys / kPageTokens];
    if constexpr (kKeys > kPageTokens) {
      static_assert(kKeys <= 2 * kPageTokens, "one page or two at once");
      if (first >= kPageTokens) page = pages[round * kKeys / kPageTokens + 1];
    }
    const bool seen = position >= tile.oldest && position <= tile.newest;
    const int64_t from = page * page_numbers + key % kPageTokens * kWidth;
    const int place = Place<kWidth>(key, chunk);
    CopyAsync(&memory.keys[stage][place], keys + from, seen);
    CopyAsync(&memory.values[stage][place], values + from, seen);
  }
}

// ---- a step's scores ----------------------------------------------------------------------------

// Scores of all keys of a step for the warp's queries. Where warps share them, they meet where the
// keys stood. By the whole block.
template <int kWidth, int kWarps, int kTogether>
__device__ __forceinline__ void ScoreStep(int stage, TileMemory<kWidth, kWarps, kTogether>& memory,
                                          float (&scores)[kKeyTiles][4]) {
  const int warp = threadIdx.x / kWarp;
  uint16_t* const keys = memory.keys[stage];
  if constexpr (kTogether == 1) {
    Score<kWidth, kKeyTiles / 2>(memory.high[warp], memory.low[warp], keys, scores);
  } else {
    static_assert(kTogether == kWarps && kTogether == kKeyTiles / 2, "16 keys a warp");
    constexpr int kApart = kStep + 8;  // from row to row, in different banks
    static_assert(2 * kApart * kQueries <= kStep * kWidth, "scores take less room than keys");
    float own[2][4] = {};
    Score<kWidth, 1>(memory.high[0], memory.low[0], keys + 16 * warp * kWidth, own);
    const int row = threadIdx.x % kWarp / 4, column = 2 * (threadIdx.x % 4);
    const auto place = [&](int half, int key_tile) {
      float* const meeting = reinterpret_cast<float*>(keys);
      return reinterpret_cast<float2*>(meeting + (row + 8 * half) * kApart + 8 * key_tile + column);
    };
    __syncthreads();  // all have read the keys
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *place(half, 2 * warp + j) = {own[j][2 * half], own[j][2 * half + 1]};
      }
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 two = *place(half, j);
        scores[j][2 * half] = two.x;
        scores[j][2 * half + 1] = two.y;
      }
    }
  }
}

// ---- kernels ------------------------------------------------------------------------------------

// Steps of positions that a block passes over: stretch `only`, or all that its tile sees.
struct Steps {
  int begin, end;

  __device__ Steps(const BlockTile& tile, int only) {
    begin = tile.oldest / kStep;
    end = tile.newest / kStep + 1;
    if (only < 0) return;
    constexpr int kOf = kStretch / kStep;
    begin = max(begin, only * kOf);
    end = min(end, (only + 1) * kOf);
  }
};

// Block (item, key/value head, z). kApart: the z-th stretch that the tile sees, which goes to
// scratch; else all stretches. Late tiles first, because they see most.
template <int kWidth, int kWarps, int kTogether, bool kApart>
__global__ void __launch_bounds__(kWarps* kWarp)
    AttendTile(const __grid_constant__ AttentionArguments arguments) {
  constexpr int kQueriesOfBlock = kQueries * kWarps / kTogether, kTiles = kWidth / 8 / kTogether;
  FollowEarlierKernels();
  extern __shared__ __align__(128) unsigned char bytes[];
  auto& memory = *reinterpret_cast<TileMemory<kWidth, kWarps, kTogether>*>(bytes);
  BlockTile tile;
  if (!FindTile(arguments, gridDim.x - 1 - blockIdx.x, kQueriesOfBlock, tile)) return;
  const int only = kApart ? tile.oldest / kStretch + static_cast<int>(blockIdx.z) : -1;
  const Steps steps(tile, only);
  if (steps.begin >= steps.end) return;
  FetchStep(arguments, tile, steps.begin * kStep, 0, memory);
  CommitCopies();
  LoadQueries(arguments, tile, memory);
  const int warp = threadIdx.x / kWarp, row = threadIdx.x % kWarp / 4;
  const int first_query = warp / kTogether * kQueries, first_tile = warp % kTogether * kTiles;
  const Query query[2] = {QueryOf(arguments, tile, first_query + row),
                          QueryOf(arguments, tile, first_query + row + 8)};
  RowSums<kTiles> part, whole;
  for (int at = steps.begin; at < steps.end; ++at) {
    const int stage = (at - steps.begin) % kStages, step = at * kStep;
    if (at + 1 < steps.end) FetchStep(arguments, tile, step + kStep, stage ^ 1, memory);
    CommitCopies();
    WaitForCopies<1>();
    __syncthreads();
    // The same for all warps that share queries.
    if (__any_sync(kAllLanes,
                   query[0].Sees(step, step + kStep) || query[1].Sees(step, step + kStep))) {
      float scores[kKeyTiles][4] = {};
      ScoreStep(stage, memory, scores);
      Weigh(arguments.scale, query, step, scores, part);
      AddValues<kWidth>(scores, memory.values[stage], first_tile, part);
    }
    const bool last = at + 1 == steps.end || (at + 1) % (kStretch / kStep) == 0;
    if (last) SumWeights(part);
    if constexpr (!kApart) {
      if (last) {
        Merge(query, step / kStretch, part, whole);
        part = RowSums<kTiles>();
      }
    }
    __syncthreads();  // the stage may be filled again
  }
  const RowSums<kTiles>& found = kApart ? part : whole;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (query[half].row < 0) continue;
    if constexpr (!kApart) {
      float* const to = RowOf(arguments.out, query[half].row) + int64_t{query[half].head} * kWidth;
      StoreRow(found, half, found.weights[half], to + 8 * first_tile);
    } else if (query[half].Sees(only * kStretch, (only + 1) * kStretch)) {
      const int64_t place =
          arguments.Place(query[half].row, query[half].head, only - query[half].oldest / kStretch);
      StoreRow(found, half, 1.0f, arguments.sums + place * kWidth + 8 * first_tile);
      if (threadIdx.x % 4 == 0 && first_tile == 0) {
        arguments.weights[place] = {found.maximum[half], found.weights[half]};
      }
    }
  }
}

// ---- launches -----------------------------------------------------------------------------------

int MostShared() {
  int device = 0, bytes = 0;
  Check(cudaGetDevice(&device), "cudaGetDevice");
  Check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  return bytes;
}

template <int kWidth, int kWarps, int kTogether, bool kApart>
void Launch(cudaStream_t stream, const AttentionArguments& arguments) {
  constexpr int kShared = sizeof(TileMemory<kWidth, kWarps, kTogether>);
  const AttentionLayer& layer = arguments.layer;
  const int group = layer.query_heads / layer.key_value_heads;
  // With a window, a tile's rows may begin in two stretches.
  const int stretches = kApart ? arguments.stretches + (layer.sliding_window > 0 ? 1 : 0) : 1;
  const int64_t items = TileItems(arguments.batch, kQueries * kWarps / kTogether, group);
  const dim3 grid(static_cast<unsigned>(items), layer.key_value_heads, stretches);
  const auto kernel = AttendTile<kWidth, kWarps, kTogether, kApart>;
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
        "PagedAttention: shared memory");
  LaunchEarly("PagedAttention: tiles", stream, grid, dim3(kWarps * kWarp), kShared, kernel,
              arguments);
}

template <int kWidth, int kWarps, int kTogether>
void LaunchWarps(cudaStream_t stream, const AttentionArguments& arguments) {
  if (arguments.sums != nullptr) return Launch<kWidth, kWarps, kTogether, true>(stream, arguments);
  Launch<kWidth, kWarps, kTogether, false>(stream, arguments);
}

// As many warps as a sequence's queries, which share keys and values then, have use for.
template <int kWidth>
void LaunchWidth(cudaStream_t stream, const AttentionArguments& arguments) {
  const Batch& batch = arguments.batch;
  const int group = arguments.layer.query_heads / arguments.layer.key_value_heads;
  const int rows = (batch.rows + batch.sequences - 1) / batch.sequences, queries = rows * group;
  if (queries <= kQueries) return LaunchWarps<kWidth, 4, 4>(stream, arguments);
  const bool fits = static_cast<int>(sizeof(TileMemory<kWidth, 8, 1>)) <= MostShared();
  if (queries <= 4 * kQueries || !fits) return LaunchWarps<kWidth, 4, 1>(stream, arguments);
  LaunchWarps<kWidth, 8, 1>(stream, arguments);
}

}  // namespace

bool AttendTiles(cudaStream_t stream, const AttentionArguments& arguments) {
  if (arguments.state.layout.type != ElementType::kBFloat16) return false;
  if (arguments.layer.head_width == 64) {
    LaunchWidth<64>(stream, arguments);
  } else if (arguments.layer.head_width == 128) {
    LaunchWidth<128>(stream, arguments);
  } else {
    return false;
  }
  return true;
}

}  // namespace mambad::kernels::cuda
