// Mamba-2's recurrence where sequences have few rows: its time is that of reading states, and of
// writing those that are stored.
//
// A block takes parts of heads one after the other, 64 columns of a head each. Two parts are in
// shared memory: while one is computed with, the next one's state and rows are on their way. A
// thread holds four columns of a sixteenth or an eighth of the state's rows in registers, and sums
// over the same numbers in the same order as a thread of mamba2_scan.cu.

#include <algorithm>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/mamba2_scan.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/recurrence.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kColumns = 64;          // of a part
constexpr int kQuads = kColumns / 4;  // threads beside each other
constexpr int kGroups = 8;            // of the state's rows: threads above each other
constexpr int kThreads = kQuads * kGroups;
constexpr int kRows = 12;           // of a sequence that are prepared together
constexpr int kStages = 2;          // parts in shared memory
constexpr int kBlocksOfDevice = 2;  // blocks a multiprocessor
constexpr int kMostRows = 24;       // of a sequence, on average; more is for the other kernels

// A part's state, [N][kColumns], and what its rows feed it. Where the state was, the groups' parts
// of y stand once it is in registers.
template <int kNumbers>
struct Stage {
  static constexpr int kSize = kGroups * kNumbers;  // N
  static constexpr int kHeld = std::max(kSize * kColumns, kGroups* kRows* kColumns);
  alignas(16) float state[kHeld];
  alignas(16) float b[kRows][kSize];
  alignas(16) float c[kRows][kSize];
  alignas(16) float x[kRows][kColumns];
  alignas(16) float z[kRows][kColumns];
  float raw[kRows];  // dt as it comes
  float dt[kRows], decay[kRows];

  __device__ float4* StateOf(int n, int quad) {
    return reinterpret_cast<float4*>(state + n * kColumns + quad * 4);
  }
  __device__ float* YOf(int group, int row) { return state + (group * kRows + row) * kColumns; }
};

// Which part of which sequence's state, and where its numbers begin.
struct Part {
  SequenceRows rows;
  int head = 0;
  int64_t x = 0, b = 0, c = 0;  // in a convolved row
  int64_t column = 0;           // in rows of z and of the result
  int64_t state = 0;

  __device__ Part(const Mamba2Arguments& arguments, int unit) {
    const Mamba2Layer& layer = arguments.layer;
    const Mamba2Widths& widths = arguments.widths;
    const int width = layer.inner_width / layer.heads, parts = layer.inner_width / kColumns;
    rows = RowsOfSequence(arguments.batch, arguments.state, unit / parts);
    column = int64_t{unit % parts} * kColumns;
    head = static_cast<int>(column) / width;
    const int first = static_cast<int>(column) % width;
    const int group = head / (layer.heads / layer.groups);
    x = head / static_cast<int>(widths.inner / widths.x) * int64_t{width} + first;
    b = widths.x + group / static_cast<int>(widths.groups / widths.b) * int64_t{layer.state_size};
    c = widths.x + widths.b + group * int64_t{layer.state_size};
    state = int64_t{head} * layer.state_size * width + first;
  }
};

// Rows [begin, begin + count) of the recurrence begin to come.
template <int kNumbers>
__device__ void FetchRows(const Mamba2Arguments& arguments, const Part& part, int begin, int count,
                          Stage<kNumbers>& stage) {
  constexpr int kFours = Stage<kNumbers>::kSize / 4;
  const SequenceRows& rows = part.rows;
  const int64_t kept_dt = arguments.widths.x + arguments.widths.b;
  const auto convolved = [&](int i) -> const float* {
    return i < rows.replay ? ReplayRow(rows, arguments.state.layout, i)
                           : RowOf(arguments.convolved, rows.call_row(i));
  };
  for (int k = threadIdx.x; k < count * kFours; k += kThreads) {
    const int r = k / kFours, n = k % kFours * 4;
    const float* const row = convolved(begin + r);
    CopyAsync(&stage.b[r][n], row + part.b + n, true);
    if (begin + r >= rows.replay) CopyAsync(&stage.c[r][n], row + part.c + n, true);
  }
  for (int k = threadIdx.x; k < count * kQuads; k += kThreads) {
    const int r = k / kQuads, p = k % kQuads * 4, i = begin + r;
    CopyAsync(&stage.x[r][p], convolved(i) + part.x + p, true);
    if (i < rows.replay) continue;
    CopyAsync(&stage.z[r][p], RowOf(arguments.projected, rows.call_row(i)) + part.column + p, true);
  }
  for (int r = threadIdx.x; r < count; r += kThreads) {
    const int i = begin + r;
    const float* const raw =
        i < rows.replay ? convolved(i) + kept_dt
                        : RowOf(arguments.projected, rows.call_row(i)) + arguments.widths.dt_column;
    CopyWordAsync(&stage.raw[r], raw + part.head);
  }
}

// A thread's numbers of the state: columns 4 quad .. of rows group * kNumbers ...
template <int kNumbers>
struct QuadState {
  int quad, group;
  int64_t place, stride;  // of the first row in the state, and from one row to the next
  float4 s[kNumbers];

  __device__ QuadState(const Mamba2Arguments& arguments, const Part& part)
      : quad(threadIdx.x % kQuads), group(threadIdx.x / kQuads) {
    stride = arguments.layer.inner_width / arguments.layer.heads;
    place = part.state + group * kNumbers * stride + quad * 4;
  }

  __device__ void Fetch(const float* from, Stage<kNumbers>& stage) const {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      CopyAsync(stage.StateOf(group * kNumbers + k, quad), from + place + k * stride, true);
    }
  }
  __device__ void Take(Stage<kNumbers>& stage) {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) s[k] = *stage.StateOf(group * kNumbers + k, quad);
  }
  __device__ void Store(float* to) const {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      *reinterpret_cast<float4*>(to + place + k * stride) = s[k];
    }
  }

  // S <- decay S + (dt x) B; y: sum of S C over the thread's own numbers, lowest first.
  template <bool kOutput>
  __device__ void Run(Stage<kNumbers>& stage, int r) {
    const float4 x = *reinterpret_cast<const float4*>(&stage.x[r][quad * 4]);
    const float dt = stage.dt[r], decay = stage.decay[r];
    const float4 input = {dt * x.x, dt * x.y, dt * x.z, dt * x.w};
    const float* const b = &stage.b[r][group * kNumbers];
    const float* const c = &stage.c[r][group * kNumbers];
    float4 y = {0, 0, 0, 0};
#pragma unroll
    for (int k = 0; k < kNumbers; k += 4) {
      const float4 b_k = *reinterpret_cast<const float4*>(b + k);
      const float4 c_k = kOutput ? *reinterpret_cast<const float4*>(c + k) : float4{};
      const float b4[4] = {b_k.x, b_k.y, b_k.z, b_k.w}, c4[4] = {c_k.x, c_k.y, c_k.z, c_k.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float4& of = s[k + j];
        of.x = fmaf(input.x, b4[j], of.x * decay);
        of.y = fmaf(input.y, b4[j], of.y * decay);
        of.z = fmaf(input.z, b4[j], of.z * decay);
        of.w = fmaf(input.w, b4[j], of.w * decay);
        if constexpr (kOutput) {
          y.x = fmaf(of.x, c4[j], y.x);
          y.y = fmaf(of.y, c4[j], y.y);
          y.z = fmaf(of.z, c4[j], y.z);
          y.w = fmaf(of.w, c4[j], y.w);
        }
      }
    }
    if constexpr (kOutput) *reinterpret_cast<float4*>(stage.YOf(group, r) + quad * 4) = y;
  }
};

template <int kNumbers>
__device__ void PrepareSteps(const Mamba2Arguments& arguments, const Part& part, int count,
                             Stage<kNumbers>& stage) {
  const Mamba2Layer& layer = arguments.layer;
  for (int r = threadIdx.x; r < count; r += kThreads) {
    const float soft = Softplus(stage.raw[r] + layer.dt_bias[part.head]);
    const float dt = fminf(fmaxf(soft, layer.dt_minimum), layer.dt_maximum);
    stage.dt[r] = dt;
    stage.decay[r] = expf(dt * layer.a[part.head]);
  }
}

// (y + D x) SiLU(z) for the chunk's rows of the call; groups' sums are added in their order.
template <int kNumbers>
__device__ void FinishRows(const Mamba2Arguments& arguments, const Part& part, int begin, int count,
                           Stage<kNumbers>& stage) {
  const int p = threadIdx.x % kColumns;
  const float skip = arguments.layer.skip[part.head];
  for (int r = threadIdx.x / kColumns; r < count; r += kThreads / kColumns) {
    if (begin + r < part.rows.replay) continue;
    float y = 0;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) y += stage.YOf(group, r)[p];
    RowOf(arguments.out, part.rows.call_row(begin + r))[part.column + p] =
        fmaf(skip, stage.x[r][p], y) * SiLU(stage.z[r][p]);
  }
}

// A part's state and its first rows begin to come; nothing where it does not run.
template <int kNumbers>
__device__ void FetchPart(const Mamba2Arguments& arguments, int unit, Stage<kNumbers>& stage) {
  const Part part(arguments, unit);
  if (!part.rows.runs()) return;
  const QuadState<kNumbers> state(arguments, part);
  state.Fetch(LoadedState(part.rows, arguments.state.layout), stage);
  FetchRows(arguments, part, 0, min(kRows, part.rows.total()), stage);
}

// All rows of a part, whose state and first rows have come.
template <int kNumbers>
__device__ void RunPart(const Mamba2Arguments& arguments, int unit, Stage<kNumbers>& stage) {
  const Part part(arguments, unit);
  const SequenceRows& rows = part.rows;
  if (!rows.runs()) return;
  QuadState<kNumbers> state(arguments, part);
  const int total = rows.total();
  for (int begin = 0; begin < total; begin += kRows) {
    const int count = min(kRows, total - begin);
    if (begin > 0) {
      __syncthreads();  // the rows before are done
      FetchRows(arguments, part, begin, count, stage);
      CommitCopies();
      WaitForCopies<0>();
      __syncthreads();
    } else {
      state.Take(stage);
    }
    PrepareSteps(arguments, part, count, stage);
    __syncthreads();
    for (int i = begin; i < begin + count;) {
      const int end = SegmentEnd(rows, i, begin + count);
      if (i < rows.replay) {
        for (int r = i - begin; r < end - begin; ++r) state.template Run<false>(stage, r);
      } else {
        for (int r = i - begin; r < end - begin; ++r) state.template Run<true>(stage, r);
      }
      if (end == rows.stored) state.Store(rows.slot + arguments.state.layout.checkpoint);
      i = end;
    }
    __syncthreads();
    FinishRows(arguments, part, begin, count, stage);
  }
  if (rows.stores_working) state.Store(rows.slot + arguments.state.layout.working);
}

template <int kNumbers>
__global__ void __launch_bounds__(kThreads, kBlocksOfDevice)
    RunParts(const __grid_constant__ Mamba2Arguments arguments, int units) {
  extern __shared__ __align__(16) unsigned char memory[];
  Stage<kNumbers>* const stages = reinterpret_cast<Stage<kNumbers>*>(memory);
  const int step = gridDim.x;
  int unit = blockIdx.x;
  for (int ahead = 0; ahead < kStages; ++ahead) {
    if (unit + ahead * step < units) FetchPart(arguments, unit + ahead * step, stages[ahead]);
    CommitCopies();
  }
  for (int at = 0; unit < units; unit += step, at = (at + 1) % kStages) {
    WaitForCopies<kStages - 1>();
    __syncthreads();
    RunPart(arguments, unit, stages[at]);
    __syncthreads();
    if (unit + kStages * step < units) FetchPart(arguments, unit + kStages * step, stages[at]);
    CommitCopies();
  }
}

template <int kNumbers>
bool Launch(cudaStream_t stream, const Mamba2Arguments& arguments) {
  constexpr int kShared = kStages * sizeof(Stage<kNumbers>);
  int device = 0, multiprocessors = 0, most_shared = 0;
  Check(cudaGetDevice(&device), "cudaGetDevice");
  Check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  Check(cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  if (kShared > most_shared) return false;
  Check(cudaFuncSetAttribute(RunParts<kNumbers>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kShared),
        "Mamba2Scan: shared memory");
  const int units = arguments.batch.sequences * (arguments.layer.inner_width / kColumns);
  const int blocks = std::min(units, multiprocessors * kBlocksOfDevice);
  RunParts<kNumbers><<<blocks, kThreads, kShared, stream>>>(arguments, units);
  CheckLaunch("Mamba2Scan: few rows");
  return true;
}

}  // namespace

bool Mamba2FewRows(cudaStream_t stream, const Mamba2Arguments& arguments) {
  const Mamba2Layer& layer = arguments.layer;
  const bool fits = layer.head_width() % kColumns == 0 && arguments.widths.x % 4 == 0 &&
                    arguments.widths.b % 4 == 0 && BeginsOn16Bytes(arguments.projected) &&
                    BeginsOn16Bytes(arguments.convolved) &&
                    arguments.batch.rows <= int64_t{kMostRows} * arguments.batch.sequences;
  if (!fits) return false;
  if (layer.state_size == 128) return Launch<16>(stream, arguments);
  if (layer.state_size == 64) return Launch<8>(stream, arguments);
  return false;
}

}  // namespace mambad::kernels::cuda
