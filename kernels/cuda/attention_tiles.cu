// Causal attention over pages of bf16 on tensor cores.
//
// A warp has 16 queries, pairs of a row and a query head, of one key/value head; a block's warps
// share the keys and values that come into shared memory, 64 positions a step, while the step
// before is computed with. Queries and weights, which are float32, are two bf16 numbers each, high
// and low, and so is every product: what they leave out is below 2^-16 of it. A row's sums are
// those of its stretches, each by steps that begin at multiples of kStep with a running maximum: a
// row's bits follow from its position and its window, not from the tile that it shares. Keys that a
// row does not see weigh exactly nothing in it.

#include <cuda_bf16.h>

#include <algorithm>
#include <climits>
#include <cmath>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_heads.h"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kQueries = 16;  // of a warp
constexpr int kStep = 64;     // positions
constexpr int kStages = 2;    // steps in shared memory
constexpr int kKeyTiles = kStep / 8;
static_assert(kStretch % kStep == 0 && kStep % kPageTokens == 0, "steps are whole pages");

// ---- numbers ------------------------------------------------------------------------------------

// Four matrices of 8 x 8 halves from shared memory, a row's address from each lane; of lane l the
// numbers of row l / 4, columns 2 (l % 4) and the next.
__device__ __forceinline__ uint4 LoadMatrices(const uint16_t* from) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from)))
               : "memory");
  return v;
}
// The same, each matrix transposed.
__device__ __forceinline__ uint4 LoadTransposed(const uint16_t* from) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from)))
               : "memory");
  return v;
}

// Two numbers as high halves and what is left of them.
__device__ __forceinline__ void Split(float first, float second, uint32_t& high, uint32_t& low) {
  high = RoundPair(first, second);
  low =
      RoundPair(first - __uint_as_float(high << 16), second - __uint_as_float(high & 0xffff0000u));
}

// Where 16 bytes of a row of halves lie: neighbouring rows' in different banks.
template <int kWidth>
__device__ __forceinline__ int Place(int row, int chunk) {
  return row * kWidth + ((chunk ^ (row & 7)) * 8);
}

template <int kWidth, int kWarps>
struct TileMemory {
  alignas(128) uint16_t keys[kStages][kStep * kWidth];
  alignas(128) uint16_t values[kStages][kStep * kWidth];
  alignas(128) uint16_t high[kWarps][kQueries * kWidth], low[kWarps][kQueries * kWidth];
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

// One query: what it is of, and the positions that it sees; none where there is no such query.
struct Query {
  int row = -1, head = 0;  // row -1: there is none
  int oldest = INT_MAX, newest = -1;

  __device__ Query(const AttentionArguments& arguments, const BlockTile& tile, int index) {
    if (index >= tile.count) return;
    const int in_sequence = (tile.first + index) / tile.group;
    row = tile.row_begin + in_sequence;
    head = tile.key_head * tile.group + (tile.first + index) % tile.group;
    newest = tile.position + in_sequence;
    oldest = static_cast<int>(arguments.Oldest(newest));
  }
  __device__ bool Sees(int begin, int end) const { return oldest < end && newest >= begin; }
};

// A warp's queries, halved; zeros where there are none.
template <int kWidth, int kWarps>
__device__ void LoadQueries(const AttentionArguments& arguments, const BlockTile& tile,
                            TileMemory<kWidth, kWarps>& memory) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  uint32_t* const high = reinterpret_cast<uint32_t*>(memory.high[warp]);
  uint32_t* const low = reinterpret_cast<uint32_t*>(memory.low[warp]);
#pragma unroll 4
  for (int i = 0; i < kQueries; ++i) {
    const Query query(arguments, tile, warp * kQueries + i);
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
template <int kWidth, int kWarps>
__device__ void FetchStep(const AttentionArguments& arguments, const BlockTile& tile, int step,
                          int stage, TileMemory<kWidth, kWarps>& memory) {
  constexpr int kChunks = kWidth / 8, kTogether = kWarps * kWarp / kChunks;  // keys at once
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
  for (int round = 0; round < kStep / kTogether; ++round) {
    const int key = round * kTogether + first, position = step + key;
    int32_t page = pages[round * kTogether / kPageTokens];
    if constexpr (kTogether > kPageTokens) {
      static_assert(kTogether <= 2 * kPageTokens, "one page or two at once");
      if (first >= kPageTokens) page = pages[round * kTogether / kPageTokens + 1];
    }
    const bool seen = position >= tile.oldest && position <= tile.newest;
    const int64_t from = page * page_numbers + key % kPageTokens * kWidth;
    const int place = Place<kWidth>(key, chunk);
    CopyAsync(&memory.keys[stage][place], keys + from, seen);
    CopyAsync(&memory.values[stage][place], values + from, seen);
  }
}

// ---- a warp's sums ------------------------------------------------------------------------------

// Of lane l: rows l / 4 and l / 4 + 8 of the warp's queries, columns 8 j + 2 (l % 4) and the next.
// `weights` is of this lane's keys until a stretch is done.
template <int kWidth>
struct RowSums {
  float maximum[2] = {-INFINITY, -INFINITY}, weights[2] = {0, 0};
  float sum[kWidth / 8][4] = {};
};

// Scores of a step's keys: sums[j] those of keys 8 j ...
template <int kWidth>
__device__ __forceinline__ void Score(const uint16_t* high, const uint16_t* low,
                                      const uint16_t* keys, float (&sums)[kKeyTiles][4]) {
  const int lane = threadIdx.x % kWarp, matrix = lane / 8, line = lane % 8;
#pragma unroll 2
  for (int k = 0; k < kWidth / 16; ++k) {
    const int place = Place<kWidth>(line + 8 * (matrix & 1), 2 * k + matrix / 2);
    const uint4 high_queries = LoadMatrices(high + place), low_queries = LoadMatrices(low + place);
    uint4 pair[kKeyTiles / 2];
#pragma unroll
    for (int j = 0; j < kKeyTiles / 2; ++j) {
      pair[j] = LoadMatrices(keys +
                             Place<kWidth>(16 * j + 8 * (matrix / 2) + line, 2 * k + (matrix & 1)));
    }
#pragma unroll
    for (int j = 0; j < kKeyTiles / 2; ++j) {
      MultiplyAdd(high_queries, {pair[j].x, pair[j].y}, sums[2 * j]);
      MultiplyAdd(high_queries, {pair[j].z, pair[j].w}, sums[2 * j + 1]);
    }
#pragma unroll
    for (int j = 0; j < kKeyTiles / 2; ++j) {
      MultiplyAdd(low_queries, {pair[j].x, pair[j].y}, sums[2 * j]);
      MultiplyAdd(low_queries, {pair[j].z, pair[j].w}, sums[2 * j + 1]);
    }
  }
}

// Scores become weights against the running maximum, and what was summed so far is scaled to it.
template <int kWidth>
__device__ __forceinline__ void Weigh(float scale, const Query (&query)[2], int step,
                                      float (&scores)[kKeyTiles][4], RowSums<kWidth>& part) {
  const int first = step + 2 * (threadIdx.x % 4);
  float highest[2] = {part.maximum[0], part.maximum[1]};
#pragma unroll
  for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int position = first + 8 * j + (i & 1);
      const bool seen = position >= query[i / 2].oldest && position <= query[i / 2].newest;
      scores[j][i] = seen ? scores[j][i] * scale : -INFINITY;
      highest[i / 2] = fmaxf(highest[i / 2], scores[j][i]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    highest[half] = fmaxf(highest[half], __shfl_xor_sync(kAllLanes, highest[half], 1));
    highest[half] = fmaxf(highest[half], __shfl_xor_sync(kAllLanes, highest[half], 2));
    const float against = highest[half] == -INFINITY ? 0.0f : highest[half];
    const float correction = exp2f(part.maximum[half] - against);
    part.maximum[half] = highest[half];
    float weights = part.weights[half] * correction;
#pragma unroll
    for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[j][i] = exp2f(scores[j][i] - against);
        weights += scores[j][i];
      }
    }
    part.weights[half] = weights;
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
      part.sum[j][2 * half] *= correction;
      part.sum[j][2 * half + 1] *= correction;
    }
  }
}

// Adds weight * value over the step's keys, 16 by 16.
template <int kWidth>
__device__ __forceinline__ void AddValues(const float (&weights)[kKeyTiles][4],
                                          const uint16_t* values, RowSums<kWidth>& part) {
  const int lane = threadIdx.x % kWarp, matrix = lane / 8, line = lane % 8;
#pragma unroll
  for (int k = 0; k < kStep / 16; ++k) {
    const float(&left)[4] = weights[2 * k], (&right)[4] = weights[2 * k + 1];
    uint4 high, low;
    Split(left[0], left[1], high.x, low.x);
    Split(left[2], left[3], high.y, low.y);
    Split(right[0], right[1], high.z, low.z);
    Split(right[2], right[3], high.w, low.w);
#pragma unroll
    for (int j = 0; j < kWidth / 8; j += 2) {
      const uint4 pair =
          LoadTransposed(values + Place<kWidth>(16 * k + 8 * (matrix & 1) + line, j + matrix / 2));
      MultiplyAdd(high, {pair.x, pair.y}, part.sum[j]);
      MultiplyAdd(high, {pair.z, pair.w}, part.sum[j + 1]);
      MultiplyAdd(low, {pair.x, pair.y}, part.sum[j]);
      MultiplyAdd(low, {pair.z, pair.w}, part.sum[j + 1]);
    }
  }
}

// A stretch is done: lanes of a row know the sum of its weights.
template <int kWidth>
__device__ __forceinline__ void SumWeights(RowSums<kWidth>& part) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    part.weights[half] += __shfl_xor_sync(kAllLanes, part.weights[half], 1);
    part.weights[half] += __shfl_xor_sync(kAllLanes, part.weights[half], 2);
  }
}

// What a stretch gave joins what those before it gave, of rows that see some of it.
template <int kWidth>
__device__ __forceinline__ void Merge(const Query (&query)[2], int stretch,
                                      const RowSums<kWidth>& part, RowSums<kWidth>& whole) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (!query[half].Sees(stretch * kStretch, (stretch + 1) * kStretch)) continue;
    const float highest = fmaxf(whole.maximum[half], part.maximum[half]);
    const float mine = exp2f(whole.maximum[half] - highest);
    const float its = exp2f(part.maximum[half] - highest);
    whole.maximum[half] = highest;
    whole.weights[half] = fmaf(part.weights[half], its, whole.weights[half] * mine);
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        whole.sum[j][i] = fmaf(part.sum[j][i], its, whole.sum[j][i] * mine);
      }
    }
  }
}

// A lane's columns of one of its rows.
template <int kWidth>
__device__ __forceinline__ void StoreRow(const RowSums<kWidth>& sums, int half, float divisor,
                                         float* to) {
  const int column = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int j = 0; j < kWidth / 8; ++j) {
    to[8 * j + column] = sums.sum[j][2 * half] / divisor;
    to[8 * j + column + 1] = sums.sum[j][2 * half + 1] / divisor;
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
template <int kWidth, int kWarps, bool kApart>
__global__ void __launch_bounds__(kWarps* kWarp)
    AttendTile(const __grid_constant__ AttentionArguments arguments) {
  extern __shared__ __align__(128) unsigned char bytes[];
  auto& memory = *reinterpret_cast<TileMemory<kWidth, kWarps>*>(bytes);
  BlockTile tile;
  if (!FindTile(arguments, gridDim.x - 1 - blockIdx.x, kQueries * kWarps, tile)) return;
  const int only = kApart ? tile.oldest / kStretch + static_cast<int>(blockIdx.z) : -1;
  const Steps steps(tile, only);
  if (steps.begin >= steps.end) return;
  FetchStep(arguments, tile, steps.begin * kStep, 0, memory);
  CommitCopies();
  LoadQueries(arguments, tile, memory);
  const int warp = threadIdx.x / kWarp, row = threadIdx.x % kWarp / 4;
  const Query query[2] = {{arguments, tile, warp * kQueries + row},
                          {arguments, tile, warp * kQueries + row + 8}};
  RowSums<kWidth> part, whole;
  for (int at = steps.begin; at < steps.end; ++at) {
    const int stage = (at - steps.begin) % kStages, step = at * kStep;
    if (at + 1 < steps.end) FetchStep(arguments, tile, step + kStep, stage ^ 1, memory);
    CommitCopies();
    WaitForCopies<1>();
    __syncthreads();
    if (__any_sync(kAllLanes,
                   query[0].Sees(step, step + kStep) || query[1].Sees(step, step + kStep))) {
      float scores[kKeyTiles][4] = {};
      Score<kWidth>(memory.high[warp], memory.low[warp], memory.keys[stage], scores);
      Weigh(arguments.scale, query, step, scores, part);
      AddValues(scores, memory.values[stage], part);
    }
    const bool last = at + 1 == steps.end || (at + 1) % (kStretch / kStep) == 0;
    if (last) SumWeights(part);
    if constexpr (!kApart) {
      if (last) {
        Merge(query, step / kStretch, part, whole);
        part = RowSums<kWidth>();
      }
    }
    __syncthreads();  // the stage may be filled again
  }
  const RowSums<kWidth>& found = kApart ? part : whole;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (query[half].row < 0) continue;
    if constexpr (!kApart) {
      StoreRow(found, half, found.weights[half],
               RowOf(arguments.out, query[half].row) + int64_t{query[half].head} * kWidth);
    } else if (query[half].Sees(only * kStretch, (only + 1) * kStretch)) {
      const int64_t place =
          arguments.Place(query[half].row, query[half].head, only - query[half].oldest / kStretch);
      StoreRow(found, half, 1.0f, arguments.sums + place * kWidth);
      if (threadIdx.x % 4 == 0) {
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

template <int kWidth, int kWarps, bool kApart>
void Launch(cudaStream_t stream, const AttentionArguments& arguments) {
  constexpr int kShared = sizeof(TileMemory<kWidth, kWarps>);
  const AttentionLayer& layer = arguments.layer;
  const int group = layer.query_heads / layer.key_value_heads;
  // With a window, a tile's rows may begin in two stretches.
  const int stretches = kApart ? arguments.stretches + (layer.sliding_window > 0 ? 1 : 0) : 1;
  const dim3 grid(static_cast<unsigned>(TileItems(arguments.batch, kQueries * kWarps, group)),
                  layer.key_value_heads, stretches);
  Check(cudaFuncSetAttribute(AttendTile<kWidth, kWarps, kApart>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
        "PagedAttention: shared memory");
  AttendTile<kWidth, kWarps, kApart><<<grid, kWarps * kWarp, kShared, stream>>>(arguments);
  CheckLaunch("PagedAttention: tiles");
}

template <int kWidth, int kWarps>
void LaunchWarps(cudaStream_t stream, const AttentionArguments& arguments) {
  if (arguments.sums != nullptr) return Launch<kWidth, kWarps, true>(stream, arguments);
  Launch<kWidth, kWarps, false>(stream, arguments);
}

// As many warps as a sequence's queries, which share keys and values then, have use for.
template <int kWidth>
void LaunchWidth(cudaStream_t stream, const AttentionArguments& arguments) {
  const Batch& batch = arguments.batch;
  const int group = arguments.layer.query_heads / arguments.layer.key_value_heads;
  const int rows = (batch.rows + batch.sequences - 1) / batch.sequences, queries = rows * group;
  if (queries <= kQueries) return LaunchWarps<kWidth, 1>(stream, arguments);
  const bool fits = static_cast<int>(sizeof(TileMemory<kWidth, 8>)) <= MostShared();
  if (queries <= 4 * kQueries || !fits) return LaunchWarps<kWidth, 4>(stream, arguments);
  LaunchWarps<kWidth, 8>(stream, arguments);
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
