// Mamba-2's recurrence where sequences have many rows, as in prompts: its time is that of three
// multiply-adds for each row and state number.
//
// A block has 16 columns of a head. Its runners hold the state, two columns of an eighth of its
// rows each (with one alone, B and C would take longer to come from shared memory than to be used),
// and run chunk after chunk of the sequence's rows; one more warp fetches the chunks after that,
// another prepares the next one and finishes the last, so that nobody waits for memory. A thread
// sums over the same numbers in the same order as one of mamba2_scan.cu.

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/mamba2_scan.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/recurrence.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kColumns = 16;  // of a block
constexpr int kGroups = 8;    // of the state's rows
constexpr int kPairs = kColumns / 2;
constexpr int kRunners = kPairs * kGroups;
constexpr int kThreads = kRunners + 2 * kWarp;
constexpr int kRows = 16;  // of a chunk

// Chunk i is in place i % the number of places.
template <int kNumbers>
struct Chunks {
  static constexpr int kSize = kGroups * kNumbers;  // N
  alignas(16) float b[3][kRows][kSize];
  alignas(16) float c[3][kRows][kSize];
  alignas(16) float x[4][kRows][kColumns];
  alignas(16) float z[4][kRows][kColumns];
  float2 step[2][kRows];  // dt, decay
  // Each group's part of the sum over n; a row more, for a warp's groups to be in different banks.
  alignas(16) float y[2][kGroups][kRows + 1][kColumns];
};

// A block's columns, and where their numbers begin.
struct Part {
  int head = 0;
  int64_t x = 0, b = 0, c = 0;    // in a convolved row
  int64_t column = 0;             // in rows of z and of the result
  int64_t state = 0, stride = 0;  // in the state, and from one row of it to the next

  __device__ explicit Part(const Mamba2Arguments& arguments) {
    const Mamba2Layer& layer = arguments.layer;
    const Mamba2Widths& widths = arguments.widths;
    const int width = layer.inner_width / layer.heads;
    column = int64_t{blockIdx.x} * kColumns;
    head = static_cast<int>(column) / width;
    const int first = static_cast<int>(column) % width;
    const int group = head / (layer.heads / layer.groups);
    x = head / static_cast<int>(widths.inner / widths.x) * int64_t{width} + first;
    b = widths.x + group / static_cast<int>(widths.groups / widths.b) * int64_t{layer.state_size};
    c = widths.x + widths.b + group * int64_t{layer.state_size};
    stride = width;
    state = int64_t{head} * layer.state_size * width + first;
  }
};

// ---- helpers ------------------------------------------------------------------------------------

// Row i of the recurrence as it was convolved: x, B, and C where it is one of the call.
__device__ inline const float* Convolved(const Mamba2Arguments& arguments, const SequenceRows& rows,
                                         int i) {
  return i < rows.replay ? ReplayRow(rows, arguments.state.layout, i)
                         : RowOf(arguments.convolved, rows.call_row(i));
}

// A chunk begins to come. By one warp.
template <int kNumbers>
__device__ void FetchChunk(const Mamba2Arguments& arguments, const SequenceRows& rows,
                           const Part& part, int chunk, Chunks<kNumbers>& chunks) {
  constexpr int kFours = Chunks<kNumbers>::kSize / 4, kQuads = kColumns / 4;
  const int lane = threadIdx.x % kWarp, begin = chunk * kRows;
  const int count = min(kRows, rows.total() - begin);
  for (int r = 0; r < count; ++r) {
    const int i = begin + r;
    const bool of_call = i >= rows.replay;
    const float* const row = Convolved(arguments, rows, i);
#pragma unroll
    for (int k = lane; k < kFours; k += kWarp) {
      CopyAsync(&chunks.b[chunk % 3][r][4 * k], row + part.b + 4 * k, true);
      if (of_call) CopyAsync(&chunks.c[chunk % 3][r][4 * k], row + part.c + 4 * k, true);
    }
    if (lane < kQuads) {
      CopyAsync(&chunks.x[chunk % 4][r][4 * lane], row + part.x + 4 * lane, true);
    } else if (of_call && lane < 2 * kQuads) {
      const int p = 4 * (lane - kQuads);
      const float* const z = RowOf(arguments.projected, rows.call_row(i)) + part.column;
      CopyAsync(&chunks.z[chunk % 4][r][p], z + p, true);
    }
  }
}

template <int kNumbers>
__device__ void Fetch(const Mamba2Arguments& arguments, const SequenceRows& rows, const Part& part,
                      int count, Chunks<kNumbers>& chunks) {
  for (int chunk = 0; chunk < 2; ++chunk) {
    if (chunk < count) FetchChunk(arguments, rows, part, chunk, chunks);
    CommitCopies();
  }
  WaitForCopies<1>();
  __syncthreads();
  for (int chunk = 0; chunk <= count; ++chunk) {  // is run meanwhile
    if (chunk + 2 < count) FetchChunk(arguments, rows, part, chunk + 2, chunks);
    CommitCopies();
    WaitForCopies<1>();
    __syncthreads();
  }
}

// What comes before and after the runners; lane r < kRows knows row r of the chunk after the next.
template <int kNumbers>
struct Finisher {
  const Mamba2Arguments& arguments;
  const SequenceRows& rows;
  const Part& part;
  Chunks<kNumbers>& chunks;
  int lane;
  float bias, a, skip;
  float raw = 0;  // dt as it comes

  __device__ void LoadRaw(int chunk) {
    const int i = chunk * kRows + lane;
    if (lane >= kRows || i >= rows.total()) return;
    const float* const from =
        i < rows.replay ? Convolved(arguments, rows, i) + arguments.widths.x + arguments.widths.b
                        : RowOf(arguments.projected, rows.call_row(i)) + arguments.widths.dt_column;
    raw = from[part.head];
  }
  __device__ void Prepare(int chunk) const {
    if (lane >= kRows) return;
    const float soft = Softplus(raw + bias);
    const float dt = fminf(fmaxf(soft, arguments.layer.dt_minimum), arguments.layer.dt_maximum);
    chunks.step[chunk % 2][lane] = {dt, expf(dt * a)};
  }

  // (y + D x) SiLU(z) of a chunk that was run; groups' sums are added in their order.
  __device__ void Finish(int chunk) const {
    constexpr int kTogether = kWarp / kColumns;  // rows
    const int p = lane % kColumns, begin = chunk * kRows;
    const int count = min(kRows, rows.total() - begin);
#pragma unroll 4
    for (int r = lane / kColumns; r < count; r += kTogether) {
      float y = 0;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) y += chunks.y[chunk % 2][group][r][p];
      const float result =
          fmaf(skip, chunks.x[chunk % 4][r][p], y) * SiLU(chunks.z[chunk % 4][r][p]);
      if (begin + r < rows.replay) continue;
      RowOf(arguments.out, rows.call_row(begin + r))[part.column + p] = result;
    }
  }
};

template <int kNumbers>
__device__ void PrepareAndFinish(Finisher<kNumbers> finisher, int count) {
  finisher.LoadRaw(0);
  finisher.Prepare(0);
  finisher.LoadRaw(1);
  __syncthreads();
  for (int chunk = 0; chunk <= count; ++chunk) {  // is run meanwhile
    finisher.Prepare(chunk + 1);
    finisher.LoadRaw(chunk + 2);
    if (chunk > 0) finisher.Finish(chunk - 1);
    __syncthreads();
  }
}

// ---- runners ------------------------------------------------------------------------------------

// A thread's part of the state: two columns, rows group * kNumbers ...
template <int kNumbers>
struct PairOfGroup {
  int column = threadIdx.x % kPairs * 2, group = threadIdx.x / kPairs;
  int64_t place, stride;
  float2 s[kNumbers];

  __device__ explicit PairOfGroup(const Part& part)
      : place(part.state + group * kNumbers * part.stride + column), stride(part.stride) {}

  __device__ void Load(const float* from) {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      s[k] = *reinterpret_cast<const float2*>(from + place + k * stride);
    }
  }
  __device__ void Store(float* to) const {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) *reinterpret_cast<float2*>(to + place + k * stride) = s[k];
  }

  // S <- decay S + (dt x) B; returns the sums of S C over the thread's own numbers, lowest first.
  __device__ __forceinline__ float2 Run(const float2& step, const float2& x, const float* b,
                                        const float* c) {
    const float2 input = {step.x * x.x, step.x * x.y};
    float2 y = {0, 0};
#pragma unroll
    for (int k = 0; k < kNumbers; k += 4) {
      const float4 b_k = *reinterpret_cast<const float4*>(b + group * kNumbers + k);
      const float4 c_k = *reinterpret_cast<const float4*>(c + group * kNumbers + k);
      const float b4[4] = {b_k.x, b_k.y, b_k.z, b_k.w}, c4[4] = {c_k.x, c_k.y, c_k.z, c_k.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[k + j].x = fmaf(input.x, b4[j], s[k + j].x * step.y);
        s[k + j].y = fmaf(input.y, b4[j], s[k + j].y * step.y);
        y.x = fmaf(s[k + j].x, c4[j], y.x);
        y.y = fmaf(s[k + j].y, c4[j], y.y);
      }
    }
    return y;
  }
};

template <int kNumbers>
__device__ void Run(const Mamba2Arguments& arguments, const SequenceRows& rows, const Part& part,
                    int count, Chunks<kNumbers>& chunks) {
  const RecurrentSlotLayout& layout = arguments.state.layout;
  PairOfGroup<kNumbers> state(part);
  state.Load(LoadedState(rows, layout));
  __syncthreads();
  for (int chunk = 0; chunk <= count; ++chunk) {  // the last time for helpers alone
    const int begin = chunk * kRows, behind = min(begin + kRows, rows.total());
    for (int i = begin; i < behind;) {
      const int end = i < rows.stored ? min(behind, rows.stored) : behind;
#pragma unroll 2
      for (int r = i - begin; r < end - begin; ++r) {
        const float2 x = *reinterpret_cast<const float2*>(&chunks.x[chunk % 4][r][state.column]);
        *reinterpret_cast<float2*>(&chunks.y[chunk % 2][state.group][r][state.column]) =
            state.Run(chunks.step[chunk % 2][r], x, chunks.b[chunk % 3][r], chunks.c[chunk % 3][r]);
      }
      if (end == rows.stored) state.Store(rows.slot + layout.checkpoint);
      i = end;
    }
    __syncthreads();
  }
  if (rows.stores_working) state.Store(rows.slot + layout.working);
}

// Block (i, s): columns kColumns i .. of sequence s.
template <int kNumbers>
__global__ void __launch_bounds__(kThreads)
    ScanChunks(const __grid_constant__ Mamba2Arguments arguments) {
  extern __shared__ __align__(16) unsigned char bytes[];
  auto& chunks = *reinterpret_cast<Chunks<kNumbers>*>(bytes);
  const SequenceRows rows = RowsOfSequence(arguments.batch, arguments.state, blockIdx.y);
  if (!rows.runs()) return;
  const Part part(arguments);
  const int count = (rows.total() + kRows - 1) / kRows;
  if (threadIdx.x < kRunners) {
    Run(arguments, rows, part, count, chunks);
  } else if (threadIdx.x < kRunners + kWarp) {
    Fetch(arguments, rows, part, count, chunks);
  } else {
    const Mamba2Layer& layer = arguments.layer;
    PrepareAndFinish(
        Finisher<kNumbers>{arguments, rows, part, chunks, static_cast<int>(threadIdx.x) % kWarp,
                           layer.dt_bias[part.head], layer.a[part.head], layer.skip[part.head]},
        count);
  }
}

template <int kNumbers>
bool Launch(cudaStream_t stream, const Mamba2Arguments& arguments) {
  constexpr int kShared = sizeof(Chunks<kNumbers>);
  Check(cudaFuncSetAttribute(ScanChunks<kNumbers>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kShared),
        "Mamba2Scan: shared memory");
  const dim3 grid(arguments.layer.inner_width / kColumns, arguments.batch.sequences);
  ScanChunks<kNumbers><<<grid, kThreads, kShared, stream>>>(arguments);
  CheckLaunch("Mamba2Scan: many rows");
  return true;
}

}  // namespace

bool Mamba2ManyRows(cudaStream_t stream, const Mamba2Arguments& arguments) {
  const Mamba2Layer& layer = arguments.layer;
  const bool fits = layer.head_width() % kColumns == 0 && arguments.widths.x % 4 == 0 &&
                    arguments.widths.b % 4 == 0 && BeginsOn16Bytes(arguments.projected) &&
                    BeginsOn16Bytes(arguments.convolved);
  if (!fits) return false;
  if (layer.state_size == 128) return Launch<16>(stream, arguments);
  if (layer.state_size == 64) return Launch<8>(stream, arguments);
  return false;
}

}  // namespace mambad::kernels::cuda
