// Outer scans in chunks of tokens on the matrix units. With c_i the sum of log decays from the
// chunk's first step through step i and S the state before the chunk,
//
//   out_i = sum over j <= i of exp(c_i - c_j) scale_j (query_i . key_j) value_j
//         + exp(c_i) S query_i
//   S'    = exp(c_last) S + sum over j of exp(c_last - c_j) scale_j value_j key_j^T
//
// where pairs on two sides of a document's beginning count for nothing. Exponents are never above
// 0. Factors that are not bf16 to begin with (the weighted products, the state, the weighted
// values) enter the matrix units as two bf16 each, as three where dots are wanted: those are
// subtracted from each other afterwards and want all of fp32.

#include <algorithm>

#include "kernels/cuda/training/element_access.cuh"
#include "kernels/cuda/training/matrix_tiles.cuh"
#include "kernels/cuda/training/outer_scan.h"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 128;  // 4 warps; each has 16 steps of a chunk and 16 columns of the value
constexpr int kSteps = 64;
constexpr int kSlice = kOuterScanSlice;
static_assert(kSlice == 64, "a warp has a quarter of the slice's columns");
constexpr unsigned kAll = 0xffffffffu;

// What one step of a chunk weighs.
struct alignas(16) StepWeights {
  float sum[kSteps];       // c
  float scale[kSteps];     // of the value going in; 1 when reversed
  float outgoing[kSteps];  // of out; 1 unless reversed
  float into[kSteps];      // exp(c_last - c_j) scale_j, or 0
  int first[kSteps];       // the step at which this step's document begins, or -1: before the chunk
  float through;           // exp(c_last), or 0
};

template <int kKey>
struct Buffers {
  MatrixTile<kSteps, kKey> key[2], query;  // a warp reads and fills its own rows of query alone
  MatrixTile<kSteps, kSlice> value[2];
  MatrixTile<kSlice, kKey> state[3];  // split
  StepWeights weights[2];
  float skip_dots[kThreads / 32];
};

// One block's view of a scan: one head of one sequence, one slice of the value's columns.
struct Place {
  const OuterScan& scan;
  const __nv_bfloat16 *value, *key, *query, *partner;
  __nv_bfloat16* out;
  const float *scale, *log_decay;
  int tokens, slice_width;

  __device__ Place(const OuterScans& scans, const OuterScan& the_scan)
      : scan(the_scan), tokens(scans.tokens) {
    const int head = blockIdx.y % scans.heads, slice_begin = blockIdx.x * kSlice;
    const int64_t row = int64_t{blockIdx.y} / scans.heads * tokens;
    slice_width = min(kSlice, scan.value_width - slice_begin);
    value = Rows(scan.value, row, head, scan.value_width) + slice_begin;
    partner = scan.partner.data == nullptr
                  ? nullptr
                  : Rows(scan.partner, row, head, scan.value_width) + slice_begin;
    key = Rows(scan.key, row, head, scan.key_width);
    query = Rows(scan.query, row, head, scan.key_width);
    out = static_cast<__nv_bfloat16*>(scan.out) + row * scan.out_stride +
          int64_t{head} * scan.value_width + slice_begin;
    scale = scans.scale + int64_t{blockIdx.y} * tokens;
    log_decay = scans.log_decay + int64_t{blockIdx.y} * tokens;
  }

  __device__ static const __nv_bfloat16* Rows(const OuterScanRows& rows, int64_t row, int head,
                                              int width) {
    return static_cast<const __nv_bfloat16*>(rows.data) + row * rows.stride +
           int64_t{head / rows.share} * width;
  }

  __device__ int Token(int step) const { return scan.reversed ? tokens - 1 - step : step; }

  // Fetches rows of a tile from `first_row` on, kRows of them, shared by kSharing threads of which
  // this is `thread`.
  template <int kColumns, int kRows, int kSharing, typename Tile>
  __device__ void FetchRows(const __nv_bfloat16* rows, int64_t stride, int width, int first_step,
                            int first_row, unsigned thread, Tile* tile) const {
    constexpr int kRowCopies = kColumns / 8, kRowsAtOnce = kSharing / kRowCopies;
    const int row = first_row + thread / kRowCopies, column = thread % kRowCopies * 8;
    const int step = first_step + row;
    const __nv_bfloat16* from = rows + Token(step) * stride + column;
    const int64_t next = (scan.reversed ? -stride : stride) * kRowsAtOnce;
    const int last = column < width ? tokens : 0;
#pragma unroll
    for (int i = 0; i < kRows / kRowsAtOnce; ++i) {
      const bool present = step + i * kRowsAtOnce < last;
      CopyAsync(tile->At(row + i * kRowsAtOnce, column), present ? from + i * next : rows, present);
    }
  }

  template <int kKey>
  __device__ void Fetch(int first_step, int buffer, Buffers<kKey>* buffers) const {
    FetchRows<kKey, kSteps, kThreads>(key, scan.key.stride, scan.key_width, first_step, 0,
                                      threadIdx.x, &buffers->key[buffer]);
    FetchRows<kSlice, kSteps, kThreads>(value, scan.value.stride, slice_width, first_step, 0,
                                        threadIdx.x, &buffers->value[buffer]);
    CommitCopies();
  }

  // This warp's rows of the query.
  template <int kKey>
  __device__ void FetchQuery(int first_step, int row, Buffers<kKey>* buffers) const {
    __syncwarp();  // the rows may still be read
    FetchRows<kKey, 16, 32>(query, scan.query.stride, scan.key_width, first_step, row,
                            threadIdx.x % 32, &buffers->query);
    CommitCopies();
  }
};

// A lane's two steps of a chunk, fetched ahead.
struct FetchedSteps {
  float log_decay[2], scale[2];
};

__device__ FetchedSteps FetchSteps(const Place& place, int first_step) {
  FetchedSteps steps;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int step = first_step + threadIdx.x % 32 * 2 + i, token = place.Token(step);
    const int decayed = place.scan.reversed ? token + 1 : token;
    const bool inside = step < place.tokens;
    steps.scale[i] = inside ? place.scale[token] : 0.0f;
    steps.log_decay[i] = !inside                                 ? 0.0f
                         : decayed > 0 && decayed < place.tokens ? place.log_decay[decayed]
                                                                 : -INFINITY;
  }
  return steps;
}

// Done by one whole warp.
__device__ void WeighSteps(const FetchedSteps& steps, bool reversed, StepWeights* weights) {
  const int lane = threadIdx.x % 32;
  float logs[2];
  int begins = -1, begins_first = -1;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool starts = steps.log_decay[i] == -INFINITY;
    logs[i] = starts ? 0.0f : steps.log_decay[i];
    if (starts) begins = lane * 2 + i;
    if (i == 0) begins_first = begins;
  }
  float sum = logs[0] + logs[1];
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const float before = __shfl_up_sync(kAll, sum, lanes);
    const int earlier = __shfl_up_sync(kAll, begins, lanes);
    if (lane >= lanes) sum += before, begins = max(begins, earlier);
  }
  const int before = __shfl_up_sync(kAll, begins, 1);
  const float last = __shfl_sync(kAll, sum, 31);
  const int last_begin = __shfl_sync(kAll, begins, 31);
  const float sums[2] = {sum - logs[1], sum};
  const int first[2] = {max(begins_first, lane == 0 ? -1 : before), begins};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int step = lane * 2 + i;
    const float scale = reversed ? 1.0f : steps.scale[i];
    weights->sum[step] = sums[i];
    weights->scale[step] = scale;
    weights->outgoing[step] = reversed ? steps.scale[i] : 1.0f;
    weights->first[step] = first[i];
    weights->into[step] = step >= last_begin ? __expf(last - sums[i]) * scale : 0.0f;
  }
  if (lane == 0) weights->through = last_begin < 0 ? __expf(last) : 0.0f;
}

// A warp's part of a chunk's outputs: 16 steps from `row` on, all columns of the slice. What comes
// from before `row` is summed as of step row - 1 and then carried on to each step.
template <int kKey, int kParts>
struct Outputs {
  static constexpr int kColumnTiles = kSlice / 8, kKeyTiles = kKey / 16;

  const Buffers<kKey>& buffers;
  const StepWeights& weights;
  const MatrixTile<kSteps, kKey>& key;
  const MatrixTile<kSteps, kSlice>& value;
  const int row;
  unsigned query[kKeyTiles][4];
  float sums[kColumnTiles][4] = {};

  __device__ Outputs(const Buffers<kKey>& all, int buffer, int first_row)
      : buffers(all),
        weights(all.weights[buffer]),
        key(all.key[buffer]),
        value(all.value[buffer]),
        row(first_row) {
#pragma unroll
    for (int k = 0; k < kKeyTiles; ++k) LoadLeft(buffers.query, row, k * 16, query[k]);
  }

  // A thread's step in either half of its sums.
  __device__ int Step(int half) const { return row + threadIdx.x % 32 / 4 + half * 8; }

  __device__ void Scale(float upper, float lower) {
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; ++tile) {
      sums[tile][0] *= upper, sums[tile][1] *= upper;
      sums[tile][2] *= lower, sums[tile][3] *= lower;
    }
  }

  // The state before the chunk, decayed to step row - 1.
  __device__ void FromState() {
#pragma unroll
    for (int k = 0; k < kKeyTiles; ++k) {
#pragma unroll
      for (int tile = 0; tile < kColumnTiles; tile += 2) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          unsigned right[4];
          LoadRight(buffers.state[part], k * 16, tile * 8, right);
          MultiplyAdd(query[k], right[0], right[1], sums[tile]);
          MultiplyAdd(query[k], right[2], right[3], sums[tile + 1]);
        }
      }
    }
    if (row == 0) return;
    const float factor = weights.first[row - 1] < 0 ? __expf(weights.sum[row - 1]) : 0.0f;
    Scale(factor, factor);
  }

  __device__ void Products(int from, float (&products)[2][4]) const {
#pragma unroll
    for (int k = 0; k < kKeyTiles; ++k) {
      unsigned right[4];
      LoadRight(key, k * 16, from, right);
      MultiplyAdd(query[k], right[0], right[1], products[0]);
      MultiplyAdd(query[k], right[2], right[3], products[1]);
    }
  }

  // sums += weighted products times the values of the 16 steps from `from` on.
  __device__ void AddValues(int from, const float (&products)[2][4]) {
    SplitPair<kParts> split[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      split[i] = Split<kParts>(products[i / 2][i % 2 * 2], products[i / 2][i % 2 * 2 + 1]);
    }
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; tile += 2) {
      unsigned right[4];
      LoadRightTransposed(value, from, tile * 8, right);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const unsigned left[4] = {split[0].parts[part], split[1].parts[part], split[2].parts[part],
                                  split[3].parts[part]};
        MultiplyAdd(left, right[0], right[1], sums[tile]);
        MultiplyAdd(left, right[2], right[3], sums[tile + 1]);
      }
    }
  }

  // 16 steps before `row`, decayed to step row - 1.
  __device__ void FromEarlier(int from) {
    float products[2][4] = {};
    Products(from, products);
    const float sum = weights.sum[row - 1];
    const int first = weights.first[row - 1];
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const int other = from + tile * 8 + threadIdx.x % 4 * 2;
      const float2 sums_in = *reinterpret_cast<const float2*>(&weights.sum[other]);
      const float2 scales = *reinterpret_cast<const float2*>(&weights.scale[other]);
      const float left = other >= first ? __expf(sum - sums_in.x) * scales.x : 0.0f;
      const float right = other + 1 >= first ? __expf(sum - sums_in.y) * scales.y : 0.0f;
      products[tile][0] *= left, products[tile][2] *= left;
      products[tile][1] *= right, products[tile][3] *= right;
    }
    AddValues(from, products);
  }

  // On from step row - 1 to each step.
  __device__ void Carry() {
    const float before = row == 0 ? 0.0f : weights.sum[row - 1];
    float factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int step = Step(half);
      factors[half] = weights.first[step] < row ? __expf(weights.sum[step] - before) : 0.0f;
    }
    Scale(factors[0], factors[1]);
  }

  // The 16 steps themselves.
  __device__ void FromOwn() {
    float products[2][4] = {};
    Products(row, products);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int step = Step(half), first = weights.first[step];
      const float sum = weights.sum[step];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int other = row + tile * 8 + threadIdx.x % 4 * 2 + i;
          float& product = products[tile][half * 2 + i];
          product *= __expf(sum - weights.sum[other]) * weights.scale[other];
          if (other > step || other < first) product = 0;
        }
      }
    }
    AddValues(row, products);
  }

  // Dots with the partner. Returns this thread's share of partner . value.
  __device__ float Dots(const Place& place, int first_step, float* dots) const {
    float skip_dot = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int step = Step(half), token = place.Token(first_step + step);
      const bool inside = first_step + step < place.tokens;
      const __nv_bfloat16* partner =
          place.partner + token * place.scan.partner.stride + threadIdx.x % 4 * 2;
      float dot = 0;
#pragma unroll
      for (int tile = 0; tile < kColumnTiles; ++tile) {
        if (!inside || tile * 8 >= place.slice_width) continue;
        const float2 theirs = UnpackPair(*reinterpret_cast<const unsigned*>(partner + tile * 8));
        const float2 own = UnpackPair(
            *reinterpret_cast<const unsigned*>(value.At(step, tile * 8 + threadIdx.x % 4 * 2)));
        dot += theirs.x * sums[tile][half * 2] + theirs.y * sums[tile][half * 2 + 1];
        skip_dot += theirs.x * own.x + theirs.y * own.y;
      }
      dot += __shfl_xor_sync(kAll, dot, 1);
      dot += __shfl_xor_sync(kAll, dot, 2);
      if (threadIdx.x % 4 == 0 && inside) dots[token] = dot;
    }
    return skip_dot;
  }

  // Scale and skip; the finished rows go through `staging` (rows of this warp alone) to memory.
  template <typename Tile>
  __device__ void Store(const Place& place, int first_step, float skip, Tile* staging) const {
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int step = Step(half);
      const float outgoing = weights.outgoing[step];
#pragma unroll
      for (int tile = 0; tile < kColumnTiles; ++tile) {
        const unsigned column = tile * 8 + lane % 4 * 2;
        float2 values = make_float2(sums[tile][half * 2], sums[tile][half * 2 + 1]);
        values.x *= outgoing, values.y *= outgoing;
        if (skip != 0) {
          const float2 own = UnpackPair(*reinterpret_cast<const unsigned*>(value.At(step, column)));
          values.x += skip * own.x, values.y += skip * own.y;
        }
        *reinterpret_cast<unsigned*>(staging->At(step, column)) =
            PackPair(__floats2bfloat162_rn(values.x, values.y));
      }
    }
    __syncwarp();
    constexpr int kRowCopies = kSlice / 8, kRowsAtOnce = 32 / kRowCopies;
    const int first = row + lane / kRowCopies, column = lane % kRowCopies * 8;
    const int64_t stride = place.scan.out_stride;
    const int64_t next = (place.scan.reversed ? -stride : stride) * kRowsAtOnce;
    __nv_bfloat16* to = place.out + place.Token(first_step + first) * stride + column;
#pragma unroll
    for (int i = 0; i < 16 / kRowsAtOnce; ++i) {
      const int step = first + i * kRowsAtOnce;
      if (first_step + step >= place.tokens || column >= place.slice_width) continue;
      *reinterpret_cast<uint4*>(to + i * next) =
          *reinterpret_cast<const uint4*>(staging->At(step, column));
    }
  }
};

// A warp's 16 columns of the value, from `column` on, of the state after a chunk.
template <int kKey, int kParts>
__device__ void UpdateState(const MatrixTile<kSteps, kKey>& key,
                            const MatrixTile<kSteps, kSlice>& value, int column,
                            const StepWeights& weights, float (&state)[kKey / 8][4]) {
#pragma unroll
  for (int tile = 0; tile < kKey / 8; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) state[tile][i] *= weights.through;
  }
#pragma unroll
  for (int from = 0; from < kSteps; from += 16) {
    unsigned left[4];
    LoadLeftTransposed(value, column, from, left);
    SplitPair<kParts> split[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 into =
          *reinterpret_cast<const float2*>(&weights.into[from + threadIdx.x % 4 * 2 + i / 2 * 8]);
      const float2 values = UnpackPair(left[i]);
      split[i] = Split<kParts>(values.x * into.x, values.y * into.y);
    }
#pragma unroll
    for (int tile = 0; tile < kKey / 8; tile += 2) {
      unsigned right[4];
      LoadRightTransposed(key, from, tile * 8, right);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const unsigned weighted[4] = {split[0].parts[part], split[1].parts[part],
                                      split[2].parts[part], split[3].parts[part]};
        MultiplyAdd(weighted, right[0], right[1], state[tile]);
        MultiplyAdd(weighted, right[2], right[3], state[tile + 1]);
      }
    }
  }
}

template <int kKey, int kParts>
__device__ void StoreState(const float (&state)[kKey / 8][4], int column, Buffers<kKey>* buffers) {
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (int tile = 0; tile < kKey / 8; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto split = Split<kParts>(state[tile][half * 2], state[tile][half * 2 + 1]);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        *reinterpret_cast<unsigned*>(buffers->state[part].At(
            column + lane / 4 + half * 8, tile * 8 + lane % 4 * 2)) = split.parts[part];
      }
    }
  }
}

// All chunks of a block's scan. Returns this thread's share of partner . value.
template <int kKey, int kParts>
__device__ float RunChunks(const Place& place, float skip, float* dots, Buffers<kKey>* buffers) {
  const int warp = threadIdx.x / 32, row = warp * 16;
  const bool reversed = place.scan.reversed;
  float state[kKey / 8][4] = {}, skip_dot = 0;
  StoreState<kKey, kParts>(state, row, buffers);
  place.Fetch(0, 0, buffers);
  place.FetchQuery(0, row, buffers);
  if (warp == 0) WeighSteps(FetchSteps(place, 0), reversed, &buffers->weights[0]);
  for (int first = 0, buffer = 0; first < place.tokens; first += kSteps, buffer ^= 1) {
    WaitForCopies();
    __syncthreads();
    const bool more = first + kSteps < place.tokens;
    FetchedSteps next;
    if (more) place.Fetch(first + kSteps, buffer ^ 1, buffers);
    if (more && warp == 0) next = FetchSteps(place, first + kSteps);
    Outputs<kKey, kParts> outputs(*buffers, buffer, row);
    outputs.FromState();
    for (int from = 0; from < row; from += 16) outputs.FromEarlier(from);
    outputs.Carry();
    outputs.FromOwn();
    if (dots != nullptr) skip_dot += outputs.Dots(place, first, dots);
    outputs.Store(place, first, skip, &buffers->query);
    if (!more) break;
    place.FetchQuery(first + kSteps, row, buffers);
    UpdateState<kKey, kParts>(buffers->key[buffer], buffers->value[buffer], row,
                              buffers->weights[buffer], state);
    if (warp == 0) WeighSteps(next, reversed, &buffers->weights[buffer ^ 1]);
    __syncthreads();
    StoreState<kKey, kParts>(state, row, buffers);
  }
  return skip_dot;
}

template <int kKey>
__global__ void __launch_bounds__(kThreads) ChunkKernel(const __grid_constant__ OuterScans scans) {
  const OuterScan& scan = scans.scans[blockIdx.z];
  if (static_cast<int>(blockIdx.x * kSlice) >= scan.value_width) return;
  extern __shared__ __align__(128) unsigned char memory[];
  auto& buffers = *reinterpret_cast<Buffers<kKey>*>(memory);
  const Place place(scans, scan);
  const int64_t slice_head = int64_t{blockIdx.x} * gridDim.y + blockIdx.y;
  const float skip = scan.skip == nullptr ? 0.0f : scan.skip[blockIdx.y % scans.heads];
  float* dots = scan.dots == nullptr ? nullptr : scan.dots + slice_head * scans.tokens;
  float skip_dot = dots == nullptr ? RunChunks<kKey, 2>(place, skip, dots, &buffers)
                                   : RunChunks<kKey, 3>(place, skip, dots, &buffers);
  if (scan.skip_dots == nullptr) return;
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) skip_dot += __shfl_xor_sync(kAll, skip_dot, lanes);
  if (threadIdx.x % 32 == 0) buffers.skip_dots[threadIdx.x / 32] = skip_dot;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kThreads / 32; ++i) skip_dot += buffers.skip_dots[i];
  scan.skip_dots[slice_head] = skip_dot;
}

template <int kKey>
const char* Launch(const OuterScans& scans, CUstream_st* stream) {
  int slices = 0;
  for (int i = 0; i < scans.count; ++i) {
    slices = std::max(slices, OuterScanSlices(scans.scans[i].value_width));
  }
  const cudaError_t status =
      cudaFuncSetAttribute(ChunkKernel<kKey>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(sizeof(Buffers<kKey>)));
  if (status != cudaSuccess) return cudaGetErrorString(status);
  const dim3 grid(static_cast<unsigned>(slices),
                  static_cast<unsigned>(scans.sequences * scans.heads),
                  static_cast<unsigned>(scans.count));
  ChunkKernel<kKey><<<grid, kThreads, sizeof(Buffers<kKey>), stream>>>(scans);
  return LaunchError();
}

}  // namespace

bool CanRunInChunks(const OuterScan& scan, TrainingType type) {
  if (type != TrainingType::kBFloat16 || scan.key_width > 128) return false;
  bool packs = scan.value_width % 8 == 0 && scan.key_width % 8 == 0 &&
               CanPack<__nv_bfloat16, 8>(scan.out, scan.out_stride);
  for (const OuterScanRows* rows : {&scan.value, &scan.key, &scan.query, &scan.partner}) {
    packs = packs && CanPack<__nv_bfloat16, 8>(rows->data, rows->stride);
  }
  return packs;
}

const char* RunOuterScansInChunks(const OuterScans& scans, CUstream_st* stream) {
  return scans.scans[0].key_width <= 64 ? Launch<64>(scans, stream) : Launch<128>(scans, stream);
}

}  // namespace mambad::kernels::cuda
