// Causal attention over pages, in powers of two.
//
// A query's keys are taken by stretches that begin at multiples of kStretch from position 0, each
// by steps of kStep keys with a running maximum; what the stretches give is merged in their order.
// So a row's sums follow from its position and its window alone: not from which queries share a
// block, nor from whether one block takes all stretches of a row or each has its own block.
// Heads of 64 or 128 numbers over pages in bf16 are attention_tiles.cu's; what its stretches leave
// is merged here, too.

#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_heads.h"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mixers.h"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kWarps = 4;  // of a block
constexpr int kThreads = kWarps * kWarp;
constexpr int kStep = kThreads;          // keys: one for each thread
constexpr int kQueries = 16;             // pairs of a row and a query head that share a block
constexpr int kOwn = kQueries / kWarps;  // queries of a warp: warp, warp + kWarps, ...
constexpr int kMostSharedRows = 64;      // rows of a call whose stretches have blocks of their own
constexpr int64_t kMostScratchBytes = int64_t{160} << 20;
static_assert(kStretch % kStep == 0 && kStep % kPageTokens == 0, "steps are whole pages");

// ---- numbers of keys and values -----------------------------------------------------------------

__device__ inline float2 LoadPair(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}
__device__ inline float2 Widened(uint32_t halves) {
  return {__uint_as_float(halves << 16), __uint_as_float(halves & 0xffff0000u)};
}
__device__ inline float2 LoadPair(const __nv_bfloat16* from) {
  return Widened(*reinterpret_cast<const uint32_t*>(from));
}

__device__ inline void LoadEight(const float* from, float2 (&to)[4]) {
  const float4 low = *reinterpret_cast<const float4*>(from);
  const float4 high = *reinterpret_cast<const float4*>(from + 4);
  to[0] = {low.x, low.y};
  to[1] = {low.z, low.w};
  to[2] = {high.x, high.y};
  to[3] = {high.z, high.w};
}
__device__ inline void LoadEight(const __nv_bfloat16* from, float2 (&to)[4]) {
  const uint4 halves = *reinterpret_cast<const uint4*>(from);
  to[0] = Widened(halves.x);
  to[1] = Widened(halves.y);
  to[2] = Widened(halves.z);
  to[3] = Widened(halves.w);
}

// ---- sums of a softmax --------------------------------------------------------------------------

// What some keys give one query: sum [columns of this lane] of weight * value, weight = 2^(score -
// maximum); `weights` is the sum of the weights.
template <int kColumns>
struct WeightedSum {
  float maximum = -INFINITY, weights = 0;
  float sum[kColumns] = {};

  __device__ void Add(const WeightedSum& other) {
    const float highest = fmaxf(maximum, other.maximum);
    const float mine = exp2f(maximum - highest), its = exp2f(other.maximum - highest);
    maximum = highest;
    weights = fmaf(other.weights, its, weights * mine);
#pragma unroll
    for (int k = 0; k < kColumns; ++k) sum[k] = fmaf(other.sum[k], its, sum[k] * mine);
  }
};

// ---- a block's queries --------------------------------------------------------------------------

// Queries [first, first + count) of one key/value head of a sequence, counted row by row.
struct QueryTile {
  int64_t row_begin = 0, position = 0;  // of the sequence's rows
  int64_t first = 0;
  int count = 0, group = 1, key_head = 0;
  int64_t oldest = 0, newest = 0;  // positions that some query sees
  const int32_t* pages = nullptr;

  __device__ int64_t row_in_sequence(int query) const { return (first + query) / group; }
  __device__ int64_t row(int query) const { return row_begin + row_in_sequence(query); }
  __device__ int64_t position_of(int query) const { return position + row_in_sequence(query); }
  __device__ int head(int query) const {
    return key_head * group + static_cast<int>((first + query) % group);
  }
};

// False: there is no such tile.
__device__ bool FindTile(const AttentionArguments& arguments, int64_t item, int key_head,
                         QueryTile& tile) {
  const Batch& batch = arguments.batch;
  tile.group = arguments.group();
  const SequenceTile found = TileOfItem(batch, item, kQueries, tile.group);
  const int64_t queries = found.rows * tile.group;
  if (found.first >= queries) return false;
  tile.row_begin = found.row_begin;
  tile.position = batch.position[found.sequence];
  tile.first = found.first;
  tile.count = static_cast<int>(min(int64_t{kQueries}, queries - found.first));
  tile.key_head = key_head;
  tile.oldest = arguments.Oldest(tile.position_of(0));
  tile.newest = tile.position_of(tile.count - 1);
  tile.pages = batch.pages + int64_t{batch.slot[found.sequence]} * batch.pages_per_sequence;
  return true;
}

// kWidth: head width, rounded up to what lanes hold in pairs.
template <int kWidth>
struct QueryMemory {
  alignas(16) float query[kQueries][kWidth];  // zeros beyond the head's width
  alignas(16) float weight[kQueries][kStep];  // scores, then weights of a step's keys
};

template <int kWidth>
__device__ void LoadQueries(const AttentionArguments& arguments, const QueryTile& tile,
                            QueryMemory<kWidth>& memory) {
  const int width = arguments.layer.head_width;
  for (int k = threadIdx.x; k < kQueries * kWidth; k += kThreads) {
    const int query = k / kWidth, d = k % kWidth;
    float number = 0;
    if (query < tile.count && d < width) {
      number = RowOf(arguments.projected, tile.row(query))[int64_t{tile.head(query)} * width + d];
    }
    memory.query[query][d] = number;
  }
}

// Scores of one key for queries [first, first + kTogether). Even and odd columns are summed apart,
// then added.
template <int kTogether, bool kEights, int kWidth, typename T>
__device__ void ScoreKey(const AttentionArguments& arguments, const T* key, int first,
                         QueryMemory<kWidth>& memory) {
  const int width = arguments.layer.head_width;
  float even[kTogether] = {}, odd[kTogether] = {};
#pragma unroll 2
  for (int d = 0; d < width; d += 8) {
    float2 k[4];
    if constexpr (kEights) {
      LoadEight(key + d, k);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        k[i] = d + 2 * i < width ? LoadPair(key + d + 2 * i) : float2{0, 0};
      }
    }
#pragma unroll
    for (int q = 0; q < kTogether; ++q) {
      const float4 low = *reinterpret_cast<const float4*>(&memory.query[first + q][d]);
      const float4 high = *reinterpret_cast<const float4*>(&memory.query[first + q][d + 4]);
      even[q] = fmaf(k[0].x, low.x, even[q]);
      odd[q] = fmaf(k[0].y, low.y, odd[q]);
      even[q] = fmaf(k[1].x, low.z, even[q]);
      odd[q] = fmaf(k[1].y, low.w, odd[q]);
      even[q] = fmaf(k[2].x, high.x, even[q]);
      odd[q] = fmaf(k[2].y, high.y, odd[q]);
      even[q] = fmaf(k[3].x, high.z, even[q]);
      odd[q] = fmaf(k[3].y, high.w, odd[q]);
    }
  }
#pragma unroll
  for (int q = 0; q < kTogether; ++q) {
    memory.weight[first + q][threadIdx.x] = (even[q] + odd[q]) * arguments.scale;
  }
}

// Each thread scores one key of the step for all queries. Keys that no query sees are not read.
template <bool kEights, int kWidth, typename T>
__device__ void ScoreStep(const AttentionArguments& arguments, const QueryTile& tile, int64_t step,
                          QueryMemory<kWidth>& memory) {
  const int64_t position = step + threadIdx.x;
  if (position < tile.oldest || position > tile.newest) return;
  const T* const key = reinterpret_cast<const T*>(arguments.state.keys) +
                       KeyValuePlace(arguments.layer, tile.pages, position, tile.key_head);
  if (tile.count <= 4) return ScoreKey<4, kEights>(arguments, key, 0, memory);
  ScoreKey<8, kEights>(arguments, key, 0, memory);
  if (tile.count > 8) ScoreKey<8, kEights>(arguments, key, 8, memory);
}

// ---- a warp's queries ---------------------------------------------------------------------------

// What a warp knows of its queries: keys [begin, end) of a step are seen by query j.
struct OwnQueries {
  int count = 0;
  int begin[kOwn], end[kOwn];

  __device__ static int query(int j) { return static_cast<int>(threadIdx.x) / kWarp + j * kWarps; }

  __device__ OwnQueries(const AttentionArguments& arguments, const QueryTile& tile, int64_t step) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      begin[j] = end[j] = 0;
      if (query(j) >= tile.count) continue;
      count = j + 1;
      const int64_t position = tile.position_of(query(j));
      const int64_t last = min(position + 1 - step, int64_t{kStep});
      const int64_t first = max(arguments.Oldest(position) - step, int64_t{0});
      if (first >= last) continue;
      begin[j] = static_cast<int>(first);
      end[j] = static_cast<int>(last);
    }
  }
  __device__ bool sees(int j) const { return begin[j] < end[j]; }
};

// Scores of the step become weights against the running maximum; each lane sums those of its own
// keys.
template <int kColumns, int kWidth>
__device__ void WeighStep(const OwnQueries& own, QueryMemory<kWidth>& memory,
                          WeightedSum<kColumns> (&part)[kOwn]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int j = 0; j < kOwn; ++j) {
    if (!own.sees(j)) continue;
    float* const weight = memory.weight[OwnQueries::query(j)];
    float score[kWarps], highest = part[j].maximum;
#pragma unroll
    for (int k = 0; k < kWarps; ++k) {
      const int key = k * kWarp + lane;
      const bool seen = key >= own.begin[j] && key < own.end[j];
      score[k] = seen ? weight[key] : -INFINITY;
      highest = fmaxf(highest, score[k]);
    }
    highest = WarpMaximum(highest);
    const float correction = exp2f(part[j].maximum - highest);
    part[j].maximum = highest;
    part[j].weights *= correction;
#pragma unroll
    for (int k = 0; k < kColumns; ++k) part[j].sum[k] *= correction;
#pragma unroll
    for (int k = 0; k < kWarps; ++k) {
      const int key = k * kWarp + lane;
      const bool seen = key >= own.begin[j] && key < own.end[j];
      const float e = seen ? exp2f(score[k] - highest) : 0.0f;
      part[j].weights += e;
      weight[key] = e;
    }
  }
  __syncwarp();
}

// Adds weight * value over the step's keys, one by one. A lane has columns 2 lane + 64 k and the
// next; kPairs of such.
template <int kPairs, int kWidth, typename T>
__device__ void AddValues(const AttentionArguments& arguments, const QueryTile& tile, int64_t step,
                          const OwnQueries& own, const QueryMemory<kWidth>& memory,
                          WeightedSum<2 * kPairs> (&part)[kOwn]) {
  const int width = arguments.layer.head_width, column = 2 * (threadIdx.x % kWarp);
  int begin = kStep, end = 0;
#pragma unroll
  for (int j = 0; j < kOwn; ++j) {
    if (!own.sees(j)) continue;
    begin = min(begin, own.begin[j]);
    end = max(end, own.end[j]);
  }
  for (int page = begin / kPageTokens * kPageTokens; page < end; page += kPageTokens) {
    const T* const values = reinterpret_cast<const T*>(arguments.state.values) +
                            KeyValuePlace(arguments.layer, tile.pages, step + page, tile.key_head) +
                            column;
    const int first = max(begin, page), last = min(end, page + kPageTokens);
#pragma unroll 4
    for (int key = first; key < last; ++key) {
      float2 value[kPairs];
#pragma unroll
      for (int k = 0; k < kPairs; ++k) {
        value[k] = column + 64 * k < width ? LoadPair(values + int64_t{key - page} * width + 64 * k)
                                           : float2{0, 0};
      }
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        if (j >= own.count || key < own.begin[j] || key >= own.end[j]) continue;
        const float weight = memory.weight[OwnQueries::query(j)][key];
#pragma unroll
        for (int k = 0; k < kPairs; ++k) {
          part[j].sum[2 * k] = fmaf(weight, value[k].x, part[j].sum[2 * k]);
          part[j].sum[2 * k + 1] = fmaf(weight, value[k].y, part[j].sum[2 * k + 1]);
        }
      }
    }
  }
}

// What one stretch gives the warp's queries; weights are of this lane's keys alone. By the whole
// block.
template <bool kEights, int kPairs, int kWidth, typename T>
__device__ void PassStretch(const AttentionArguments& arguments, const QueryTile& tile,
                            int64_t stretch, QueryMemory<kWidth>& memory,
                            WeightedSum<2 * kPairs> (&part)[kOwn]) {
  for (int64_t step = stretch * kStretch; step < (stretch + 1) * kStretch; step += kStep) {
    if (step + kStep <= tile.oldest || step > tile.newest) continue;
    __syncthreads();  // queries stand there; weights of the step before were used
    ScoreStep<kEights, kWidth, T>(arguments, tile, step, memory);
    __syncthreads();
    const OwnQueries own(arguments, tile, step);
    WeighStep(own, memory, part);
    AddValues<kPairs, kWidth, T>(arguments, tile, step, own, memory, part);
  }
}

// ---- kernels ------------------------------------------------------------------------------------

// A lane's columns of a row of numbers.
template <int kPairs>
__device__ void StoreColumns(const float (&numbers)[2 * kPairs], int width, float* to) {
  const int column = 2 * (threadIdx.x % kWarp);
#pragma unroll
  for (int k = 0; k < kPairs; ++k) {
    if (column + 64 * k >= width) continue;
    to[column + 64 * k] = numbers[2 * k];
    to[column + 64 * k + 1] = numbers[2 * k + 1];
  }
}

// Block (item, key/value head): the tile's queries over all their stretches. Late tiles first,
// because they see most.
template <bool kEights, int kPairs, typename T>
__global__ void __launch_bounds__(kThreads)
    AttendAll(const __grid_constant__ AttentionArguments arguments) {
  constexpr int kWidth = 64 * kPairs;
  __shared__ QueryMemory<kWidth> memory;
  QueryTile tile;
  if (!FindTile(arguments, gridDim.x - 1 - blockIdx.x, blockIdx.y, tile)) return;
  LoadQueries(arguments, tile, memory);
  WeightedSum<2 * kPairs> whole[kOwn];
  for (int64_t stretch = tile.oldest / kStretch; stretch <= tile.newest / kStretch; ++stretch) {
    WeightedSum<2 * kPairs> part[kOwn];
    PassStretch<kEights, kPairs, kWidth, T>(arguments, tile, stretch, memory, part);
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      if (OwnQueries::query(j) >= tile.count) continue;
      const int64_t position = tile.position_of(OwnQueries::query(j));
      if (arguments.Oldest(position) / kStretch > stretch || position / kStretch < stretch)
        continue;
      part[j].weights = WarpSum(part[j].weights);
      whole[j].Add(part[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < kOwn; ++j) {
    const int query = OwnQueries::query(j);
    if (query >= tile.count) continue;
#pragma unroll
    for (int k = 0; k < 2 * kPairs; ++k) whole[j].sum[k] /= whole[j].weights;
    const int width = arguments.layer.head_width;
    StoreColumns<kPairs>(whole[j].sum, width,
                         RowOf(arguments.out, tile.row(query)) + int64_t{tile.head(query)} * width);
  }
}

// Block (item, key/value head, z): the tile's queries over one stretch, the z-th that some of them
// sees. What it gives goes to scratch.
template <bool kEights, int kPairs, typename T>
__global__ void __launch_bounds__(kThreads)
    AttendStretch(const __grid_constant__ AttentionArguments arguments) {
  constexpr int kWidth = 64 * kPairs;
  __shared__ QueryMemory<kWidth> memory;
  QueryTile tile;
  if (!FindTile(arguments, blockIdx.x, blockIdx.y, tile)) return;
  const int64_t stretch = tile.oldest / kStretch + blockIdx.z;
  if (stretch > tile.newest / kStretch) return;
  LoadQueries(arguments, tile, memory);
  WeightedSum<2 * kPairs> part[kOwn];
  PassStretch<kEights, kPairs, kWidth, T>(arguments, tile, stretch, memory, part);
#pragma unroll
  for (int j = 0; j < kOwn; ++j) {
    const int query = OwnQueries::query(j);
    if (query >= tile.count) continue;
    const int64_t position = tile.position_of(query);
    const int64_t first = arguments.Oldest(position) / kStretch;
    if (first > stretch || position / kStretch < stretch) continue;
    const float weights = WarpSum(part[j].weights);
    const int64_t place = arguments.Place(tile.row(query), tile.head(query), stretch - first);
    const int width = arguments.layer.head_width;
    StoreColumns<kPairs>(part[j].sum, width, arguments.sums + place * width);
    if (threadIdx.x % kWarp == 0) arguments.weights[place] = {part[j].maximum, weights};
  }
}

// Block (row, query head): merges what its stretches left in scratch, a thread for each column.
__global__ void __launch_bounds__(kMaxHeadWidth)
    MergeStretches(const __grid_constant__ AttentionArguments arguments) {
  FollowEarlierKernels();
  const Batch& batch = arguments.batch;
  const int64_t row = blockIdx.x;
  if (row >= batch.row_begin[batch.sequences]) return;
  const int sequence = SequenceOfRow(batch, row);
  const int64_t position = batch.position[sequence] + row - batch.row_begin[sequence];
  const int head = blockIdx.y, width = arguments.layer.head_width, column = threadIdx.x;
  if (column >= width) return;
  const int64_t first = arguments.Oldest(position) / kStretch, last = position / kStretch;
  WeightedSum<1> whole;
#pragma unroll 16
  for (int64_t index = 0; index <= last - first; ++index) {
    const int64_t place = arguments.Place(row, head, index);
    WeightedSum<1> part;
    part.maximum = arguments.weights[place].x;
    part.weights = arguments.weights[place].y;
    part.sum[0] = arguments.sums[place * width + column];
    whole.Add(part);
  }
  RowOf(arguments.out, row)[int64_t{head} * width + column] = whole.sum[0] / whole.weights;
}

// ---- launches -----------------------------------------------------------------------------------

template <bool kEights, int kPairs, typename T>
void Attend(cudaStream_t stream, const AttentionArguments& arguments) {
  const AttentionLayer& layer = arguments.layer;
  const int group = layer.query_heads / layer.key_value_heads;
  const unsigned items = static_cast<unsigned>(TileItems(arguments.batch, kQueries, group));
  const unsigned heads = layer.key_value_heads;
  if (arguments.sums == nullptr) {
    AttendAll<kEights, kPairs, T><<<dim3(items, heads), kThreads, 0, stream>>>(arguments);
    CheckLaunch("PagedAttention");
    return;
  }
  // With a window, a tile's rows may begin in two stretches.
  const unsigned stretches = arguments.stretches + (layer.sliding_window > 0 ? 1 : 0);
  AttendStretch<kEights, kPairs, T>
      <<<dim3(items, heads, stretches), kThreads, 0, stream>>>(arguments);
  CheckLaunch("PagedAttention: stretches");
}

template <bool kEights, int kPairs>
void AttendType(cudaStream_t stream, const AttentionArguments& arguments) {
  if (arguments.state.layout.type == ElementType::kBFloat16)
    return Attend<kEights, kPairs, __nv_bfloat16>(stream, arguments);
  Attend<kEights, kPairs, float>(stream, arguments);
}

template <int kPairs>
void AttendWidth(cudaStream_t stream, const AttentionArguments& arguments) {
  if (arguments.layer.head_width % 8 == 0) return AttendType<true, kPairs>(stream, arguments);
  AttendType<false, kPairs>(stream, arguments);
}

void AttendAnyWidth(cudaStream_t stream, const AttentionArguments& arguments) {
  const int width = arguments.layer.head_width;
  if (width <= 64) return AttendWidth<1>(stream, arguments);
  if (width <= 128) return AttendWidth<2>(stream, arguments);
  AttendWidth<4>(stream, arguments);
}

// Stretches that a row may see up to `max_position`, with a window of so many tokens (0: none).
int64_t MostStretches(int64_t max_position, int64_t window) {
  const int64_t all = max_position / kStretch + 1;
  return window > 0 ? std::min(all, (window + kStretch - 2) / kStretch + 1) : all;
}

// Numbers of scratch a row takes: head_numbers = H hd, and two more a head.
int64_t ScratchBytes(int64_t rows, int64_t stretches, int64_t head_numbers, int64_t heads) {
  return rows * stretches * (head_numbers + 2 * heads) * static_cast<int64_t>(sizeof(float));
}

void CheckLayer(const AttentionLayer& layer) {
  if (layer.key_value_heads <= 0 || layer.query_heads % layer.key_value_heads != 0 ||
      layer.query_heads <= 0 || layer.head_width < 2 || layer.head_width % 2 != 0 ||
      layer.head_width > kMaxHeadWidth || (layer.growth.context > 0 && layer.head_width < 4) ||
      (layer.query_norm.weight == nullptr) != (layer.key_norm.weight == nullptr)) {
    Fail("attention layer: query heads, key/value heads, head width",
         {layer.query_heads, layer.key_value_heads, layer.head_width});
  }
}

}  // namespace

KeyValueLayout AttentionPageLayout(const AttentionLayer& layer, ElementType type) {
  const int64_t bytes = static_cast<int64_t>(ElementBytes(type)) * layer.key_value_heads *
                        layer.head_width * kPageTokens;
  return {type, bytes, bytes};
}

int64_t AttentionScratchBytes(const WorkspaceShape& shape) {
  const int64_t rows = std::min<int64_t>(shape.max_rows, kMostSharedRows);
  const int64_t stretches = MostStretches(std::max<int64_t>(shape.max_context, 1) - 1, 0);
  // Heads are 8 wide at least, or there are fewer rows that share.
  const int64_t bytes = ScratchBytes(rows, stretches, shape.max_inner, shape.max_inner / 8 + 1);
  return std::min(bytes, kMostScratchBytes);
}

void PagedAttention(cudaStream_t stream, const Batch& batch, const AttentionLayer& layer,
                    const KeyValueState& state, const RowsView& projected, const RowsView& out,
                    const AttentionScratch& scratch) {
  CheckLayer(layer);
  if (batch.rows == 0 || batch.sequences == 0) return;
  PrepareHeads(stream, batch, layer, state, projected);
  AttentionArguments arguments{batch, layer, state, projected, out};
  arguments.scale = static_cast<float>(1.44269504088896341 * layer.score_factor /
                                       std::sqrt(static_cast<double>(layer.head_width)));
  const int64_t stretches = MostStretches(batch.max_position, layer.sliding_window);
  const int64_t bytes = ScratchBytes(
      batch.rows, stretches, int64_t{layer.query_heads} * layer.head_width, layer.query_heads);
  if (stretches > 1 && batch.rows <= kMostSharedRows && bytes <= scratch.bytes) {
    arguments.stretches = static_cast<int>(stretches);
    arguments.sums = scratch.data;
    arguments.weights = reinterpret_cast<float2*>(
        scratch.data + batch.rows * stretches * layer.query_heads * layer.head_width);
  }
  if (!AttendTiles(stream, arguments)) AttendAnyWidth(stream, arguments);
  if (arguments.sums == nullptr) return;
  const int threads = (layer.head_width + kWarp - 1) / kWarp * kWarp;
  LaunchEarly("PagedAttention: merge", stream, dim3(batch.rows, layer.query_heads), dim3(threads),
              0, MergeStretches, arguments);
}

}  // namespace mambad::kernels::cuda
