// Mamba-2's recurrence where sequences have many rows, as in prompts: its time is that of three
// multiply-adds for each row and state number.
//
// A block has 16 columns of a head. Its runners hold the state, a column of an eighth of its rows
// each, and run chunk after chunk of the sequence's rows; its helpers fetch the chunks after that,
// prepare the next one and finish the last, so that nobody waits for memory. A thread sums over the
// same numbers in the same order as one of mamba2_scan.cu.

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
constexpr int kRunners = kColumns * kGroups;
constexpr int kHelpers = 64;
constexpr int kRows = 8;  // of a chunk

// Chunk i is in place i % the number of places.
template <int kNumbers>
struct Chunks {
  static constexpr int kSize = kGroups * kNumbers;  // N
  alignas(16) float b[3][kRows][kSize];
  alignas(16) float c[3][kRows][kSize];
  alignas(16) float x[4][kRows][kColumns];
  alignas(16) float z[4][kRows][kColumns];
  float raw[3][kRows];                   // dt as it comes
  float2 step[2][kRows];                 // dt, decay
  float y[2][kGroups][kRows][kColumns];  // each group's part of the sum over n
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

template <int kNumbers>
struct Helper {
  const Mamba2Arguments& arguments;
  const SequenceRows& rows;
  const Part& part;
  Chunks<kNumbers>& chunks;
  int thread;

  __device__ const float* Convolved(int i) const {
    return i < rows.replay ? ReplayRow(rows, arguments.state.layout, i)
                           : RowOf(arguments.convolved, rows.call_row(i));
  }

  __device__ void Fetch(int chunk) const {
    constexpr int kFours = Chunks<kNumbers>::kSize / 4, kQuads = kColumns / 4;
    const int begin = chunk * kRows, count = min(kRows, rows.total() - begin);
    for (int k = thread; k < count * kFours; k += kHelpers) {
      const int r = k / kFours, n = k % kFours * 4, i = begin + r;
      const float* const row = Convolved(i);
      CopyAsync(&chunks.b[chunk % 3][r][n], row + part.b + n, true);
      if (i >= rows.replay) CopyAsync(&chunks.c[chunk % 3][r][n], row + part.c + n, true);
    }
    for (int k = thread; k < count * kQuads; k += kHelpers) {
      const int r = k / kQuads, p = k % kQuads * 4, i = begin + r;
      CopyAsync(&chunks.x[chunk % 4][r][p], Convolved(i) + part.x + p, true);
      if (i < rows.replay) continue;
      const float* const z = RowOf(arguments.projected, rows.call_row(i)) + part.column;
      CopyAsync(&chunks.z[chunk % 4][r][p], z + p, true);
    }
    if (thread < count) {
      const int i = begin + thread;
      const float* const raw =
          i < rows.replay
              ? Convolved(i) + arguments.widths.x + arguments.widths.b
              : RowOf(arguments.projected, rows.call_row(i)) + arguments.widths.dt_column;
      CopyWordAsync(&chunks.raw[chunk % 3][thread], raw + part.head);
    }
  }

  // By the threads that fetched what comes in, which is there.
  __device__ void Prepare(int chunk) const {
    const Mamba2Layer& layer = arguments.layer;
    if (thread >= kRows || chunk * kRows + thread >= rows.total()) return;
    const float soft = Softplus(chunks.raw[chunk % 3][thread] + layer.dt_bias[part.head]);
    const float dt = fminf(fmaxf(soft, layer.dt_minimum), layer.dt_maximum);
    chunks.step[chunk % 2][thread] = {dt, expf(dt * layer.a[part.head])};
  }

  // (y + D x) SiLU(z) of a chunk that was run; groups' sums are added in their order.
  __device__ void Finish(int chunk) const {
    const float skip = arguments.layer.skip[part.head];
    const int begin = chunk * kRows, count = min(kRows, rows.total() - begin);
    for (int k = thread; k < count * kColumns; k += kHelpers) {
      const int r = k / kColumns, p = k % kColumns;
      if (begin + r < rows.replay) continue;
      float y = 0;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) y += chunks.y[chunk % 2][group][r][p];
      RowOf(arguments.out, rows.call_row(begin + r))[part.column + p] =
          fmaf(skip, chunks.x[chunk % 4][r][p], y) * SiLU(chunks.z[chunk % 4][r][p]);
    }
  }
};

template <int kNumbers>
__device__ void Help(const Helper<kNumbers>& helper, int count) {
  for (int chunk = 0; chunk < 2; ++chunk) {
    if (chunk < count) helper.Fetch(chunk);
    CommitCopies();
  }
  WaitForCopies<1>();
  helper.Prepare(0);
  __syncthreads();
  for (int chunk = 0; chunk <= count; ++chunk) {  // is run meanwhile
    if (chunk + 2 < count) helper.Fetch(chunk + 2);
    CommitCopies();
    WaitForCopies<1>();
    if (chunk + 1 < count) helper.Prepare(chunk + 1);
    if (chunk > 0) helper.Finish(chunk - 1);
    __syncthreads();
  }
}

// ---- runners ------------------------------------------------------------------------------------

// A thread's part of the state: one column, rows group * kNumbers ...
template <int kNumbers>
struct ColumnOfGroup {
  int column = threadIdx.x % kColumns, group = threadIdx.x / kColumns;
  int64_t place, stride;
  float s[kNumbers];

  __device__ explicit ColumnOfGroup(const Part& part)
      : place(part.state + group * kNumbers * part.stride + column), stride(part.stride) {}

  __device__ void Load(const float* from) {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) s[k] = from[place + k * stride];
  }
  __device__ void Store(float* to) const {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) to[place + k * stride] = s[k];
  }

  // S <- decay S + (dt x) B; returns the sum of S C over the thread's own numbers, lowest first.
  __device__ __forceinline__ float Run(const float2& step, float x, const float* b,
                                       const float* c) {
    const float input = step.x * x;
    float y = 0;
#pragma unroll
    for (int k = 0; k < kNumbers; k += 4) {
      const float4 b_k = *reinterpret_cast<const float4*>(b + group * kNumbers + k);
      const float4 c_k = *reinterpret_cast<const float4*>(c + group * kNumbers + k);
      const float b4[4] = {b_k.x, b_k.y, b_k.z, b_k.w}, c4[4] = {c_k.x, c_k.y, c_k.z, c_k.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[k + j] = fmaf(input, b4[j], s[k + j] * step.y);
        y = fmaf(s[k + j], c4[j], y);
      }
    }
    return y;
  }
};

template <int kNumbers>
__device__ void Run(const Mamba2Arguments& arguments, const SequenceRows& rows, const Part& part,
                    int count, Chunks<kNumbers>& chunks) {
  const RecurrentSlotLayout& layout = arguments.state.layout;
  ColumnOfGroup<kNumbers> state(part);
  state.Load(LoadedState(rows, layout));
  __syncthreads();
  for (int chunk = 0; chunk <= count; ++chunk) {  // the last time for helpers alone
    const int begin = chunk * kRows, behind = min(begin + kRows, rows.total());
    for (int i = begin; i < behind;) {
      const int end = i < rows.stored ? min(behind, rows.stored) : behind;
#pragma unroll 2
      for (int r = i - begin; r < end - begin; ++r) {
        chunks.y[chunk % 2][state.group][r][state.column] =
            state.Run(chunks.step[chunk % 2][r], chunks.x[chunk % 4][r][state.column],
                      chunks.b[chunk % 3][r], chunks.c[chunk % 3][r]);
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
__global__ void __launch_bounds__(kRunners + kHelpers)
    ScanChunks(const __grid_constant__ Mamba2Arguments arguments) {
  __shared__ Chunks<kNumbers> chunks;
  const SequenceRows rows = RowsOfSequence(arguments.batch, arguments.state, blockIdx.y);
  if (!rows.runs()) return;
  const Part part(arguments);
  const int count = (rows.total() + kRows - 1) / kRows;
  if (threadIdx.x < kRunners) {
    Run(arguments, rows, part, count, chunks);
  } else {
    const Helper<kNumbers> helper{arguments, rows, part, chunks,
                                  static_cast<int>(threadIdx.x) - kRunners};
    Help(helper, count);
  }
}

template <int kNumbers>
bool Launch(cudaStream_t stream, const Mamba2Arguments& arguments) {
  const dim3 grid(arguments.layer.inner_width / kColumns, arguments.batch.sequences);
  ScanChunks<kNumbers><<<grid, kRunners + kHelpers, 0, stream>>>(arguments);
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
