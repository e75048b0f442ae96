#include <algorithm>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/convolution.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/mamba2_scan.cuh"
#include "kernels/cuda/mamba2_scan.h"
#include "kernels/cuda/mixers.h"
#include "kernels/cuda/recurrence.cuh"

namespace mambad::kernels::cuda {
namespace {

// Rows that wait before a state is stored: a device writes as slowly as it reads, and a row that is
// run again costs a few multiply-adds.
constexpr int kWaitingRows = 8;
constexpr int kMaxStateSize = 1024;

// One part of one head: columns [first, first + width) of its P.
struct HeadPart {
  int head = 0, first = 0, width = 0;
  int64_t x = 0, b = 0, c = 0;  // where they begin in a convolved row
  int64_t state = 0;            // where the part begins in the state
  int head_width = 0, state_size = 0;

  __device__ HeadPart(const Mamba2Arguments& arguments, int index) {
    const Mamba2Layer& layer = arguments.layer;
    const Mamba2Widths& widths = arguments.widths;
    head_width = layer.inner_width / layer.heads;
    state_size = layer.state_size;
    const int parts = (head_width + kWarp - 1) / kWarp;
    head = index / parts;
    first = index % parts * kWarp;
    width = min(kWarp, head_width - first);
    const int64_t group = head / (layer.heads / layer.groups);
    x = head / (widths.inner / widths.x) * head_width + first;
    b = widths.x + group / (widths.groups / widths.b) * state_size;
    c = widths.x + widths.b + group * state_size;
    state = int64_t{head} * state_size * head_width + first;
  }
};

// What rows of a chunk mean to a block. Numbers of B and C beyond the state's size are zero.
template <int kRows, int kWarps, int kNumbers>
struct HeadChunk {
  static constexpr int kSize = kWarps * kNumbers;
  alignas(16) float b[kRows][kSize];
  alignas(16) float c[kRows][kSize];
  float x[kRows][kWarp];
  float dt[kRows], decay[kRows];
  float y[kWarps][kRows][kWarp];  // each warp's part of the sum over n
};

template <int kRows, int kWarps, int kNumbers>
__device__ void PrepareChunk(const Mamba2Arguments& arguments, const SequenceRows& rows,
                             const HeadPart& part, int begin, int count,
                             HeadChunk<kRows, kWarps, kNumbers>& chunk) {
  constexpr int kThreads = kWarps * kWarp, kSize = kWarps * kNumbers;
  const Mamba2Layer& layer = arguments.layer;
  const Mamba2Widths& widths = arguments.widths;
  const auto convolved = [&](int i) -> const float* {
    return i < rows.replay ? ReplayRow(rows, arguments.state.layout, i)
                           : RowOf(arguments.convolved, rows.call_row(i));
  };
  for (int k = threadIdx.x; k < count * kSize; k += kThreads) {
    const int r = k / kSize, n = k % kSize, i = begin + r;
    const float* const row = convolved(i);
    const bool inside = n < part.state_size;
    chunk.b[r][n] = inside ? row[part.b + n] : 0.0f;
    chunk.c[r][n] = inside && i >= rows.replay ? row[part.c + n] : 0.0f;
  }
  for (int k = threadIdx.x; k < count * kWarp; k += kThreads) {
    const int r = k / kWarp, p = k % kWarp;
    chunk.x[r][p] = p < part.width ? convolved(begin + r)[part.x + p] : 0.0f;
  }
  for (int r = threadIdx.x; r < count; r += kThreads) {
    const int i = begin + r;
    const float* const raw = i < rows.replay
                                 ? convolved(i) + widths.x + widths.b
                                 : RowOf(arguments.projected, rows.call_row(i)) + widths.dt_column;
    const float soft = Softplus(raw[part.head] + layer.dt_bias[part.head]);
    const float dt = fminf(fmaxf(soft, layer.dt_minimum), layer.dt_maximum);
    chunk.dt[r] = dt;
    chunk.decay[r] = expf(dt * layer.a[part.head]);
  }
}

// (y + D x) SiLU(z) for the chunk's rows of the call; warps' sums over n are added in their order.
template <int kRows, int kWarps, int kNumbers>
__device__ void FinishChunk(const Mamba2Arguments& arguments, const SequenceRows& rows,
                            const HeadPart& part, int begin, int count,
                            const HeadChunk<kRows, kWarps, kNumbers>& chunk) {
  const int p = threadIdx.x % kWarp;
  if (p >= part.width) return;
  const float skip = arguments.layer.skip[part.head];
  const int64_t column = int64_t{part.head} * part.head_width + part.first + p;
  for (int r = threadIdx.x / kWarp; r < count; r += kWarps) {
    if (begin + r < rows.replay) continue;
    const int64_t row = rows.call_row(begin + r);
    float y = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) y += chunk.y[warp][r][p];
    const float z = RowOf(arguments.projected, row)[column];
    RowOf(arguments.out, row)[column] = fmaf(skip, chunk.x[r][p], y) * SiLU(z);
  }
}

// A thread's part of the state: one column p, numbers n = warp * kNumbers + k.
template <int kNumbers>
struct ColumnState {
  int64_t place = 0, stride = 0;  // of k = 0 in the state, and from one k to the next
  int count = 0;                  // numbers that there are
  float s[kNumbers];

  __device__ explicit ColumnState(const HeadPart& part) {
    const int p = threadIdx.x % kWarp, n = threadIdx.x / kWarp * kNumbers;
    stride = part.head_width;
    place = part.state + n * stride + p;
    count = p < part.width ? min(kNumbers, part.state_size - n) : 0;  // may be below 0
  }

  __device__ void Load(const float* from) {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) s[k] = k < count ? from[place + k * stride] : 0.0f;
  }
  __device__ void Store(float* to) const {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      if (k < count) to[place + k * stride] = s[k];
    }
  }

  // S <- decay S + (dt x) B; numbers of B four by four.
  __device__ void Step(float decay, float input, const float* b) {
#pragma unroll
    for (int k = 0; k < kNumbers; k += 4) {
      const float4 four = *reinterpret_cast<const float4*>(b + k);
      s[k] = fmaf(input, four.x, s[k] * decay);
      s[k + 1] = fmaf(input, four.y, s[k + 1] * decay);
      s[k + 2] = fmaf(input, four.z, s[k + 2] * decay);
      s[k + 3] = fmaf(input, four.w, s[k + 3] * decay);
    }
  }
  // Sum of S C over the thread's own numbers, lowest first.
  __device__ float Output(const float* c) const {
    float y = 0;
#pragma unroll
    for (int k = 0; k < kNumbers; k += 4) {
      const float4 four = *reinterpret_cast<const float4*>(c + k);
      y = fmaf(s[k], four.x, y);
      y = fmaf(s[k + 1], four.y, y);
      y = fmaf(s[k + 2], four.z, y);
      y = fmaf(s[k + 3], four.w, y);
    }
    return y;
  }
};

// Rows [r, end) of a chunk. Rows that are replayed have no output.
template <bool kOutput, int kRows, int kWarps, int kNumbers>
__device__ void RunRows(ColumnState<kNumbers>& state, int r, int end,
                        HeadChunk<kRows, kWarps, kNumbers>& chunk) {
  const int warp = threadIdx.x / kWarp, p = threadIdx.x % kWarp, n = warp * kNumbers;
#pragma unroll(kNumbers > 32 ? 1 : 2)
  for (; r < end; ++r) {
    state.Step(chunk.decay[r], chunk.dt[r] * chunk.x[r][p], &chunk.b[r][n]);
    if constexpr (kOutput) chunk.y[warp][r][p] = state.Output(&chunk.c[r][n]);
  }
}

// A block runs 32 columns of one head of one sequence; the state stays in registers from the load
// to the last row.
template <int kRows, int kWarps, int kNumbers>
__global__ void __launch_bounds__(kWarps* kWarp)
    ScanHeads(const __grid_constant__ Mamba2Arguments arguments) {
  __shared__ HeadChunk<kRows, kWarps, kNumbers> chunk;
  const RecurrentSlotLayout& layout = arguments.state.layout;
  const SequenceRows rows = RowsOfSequence(arguments.batch, arguments.state, blockIdx.y);
  if (!rows.runs()) return;
  const HeadPart part(arguments, blockIdx.x);
  ColumnState<kNumbers> state(part);
  state.Load(LoadedState(rows, layout));
  const int total = rows.total();
  for (int begin = 0; begin < total; begin += kRows) {
    const int count = min(kRows, total - begin);
    PrepareChunk(arguments, rows, part, begin, count, chunk);
    __syncthreads();
    for (int i = begin; i < begin + count;) {
      const int end = SegmentEnd(rows, i, begin + count);
      if (i < rows.replay) {
        RunRows<false>(state, i - begin, end - begin, chunk);
      } else {
        RunRows<true>(state, i - begin, end - begin, chunk);
      }
      if (end == rows.stored) state.Store(rows.slot + layout.checkpoint);
      i = end;
    }
    __syncthreads();
    FinishChunk(arguments, rows, part, begin, count, chunk);
    __syncthreads();  // x and y may change
  }
  if (rows.stores_working) state.Store(rows.slot + layout.working);
}

template <int kRows, int kWarps, int kNumbers>
void LaunchScan(cudaStream_t stream, const Mamba2Arguments& arguments) {
  const int parts = (arguments.layer.head_width() + kWarp - 1) / kWarp;
  const dim3 grid(arguments.layer.heads * parts, arguments.batch.sequences);
  ScanHeads<kRows, kWarps, kNumbers><<<grid, kWarps * kWarp, 0, stream>>>(arguments);
  CheckLaunch("Mamba2Scan");
}

void ScanAnyRows(cudaStream_t stream, const Mamba2Arguments& arguments) {
  const int size = arguments.layer.state_size;
  if (size <= 32) {
    LaunchScan<16, 8, 4>(stream, arguments);
  } else if (size <= 64) {
    LaunchScan<16, 8, 8>(stream, arguments);
  } else if (size <= 128) {
    LaunchScan<16, 8, 16>(stream, arguments);
  } else if (size <= 256) {
    LaunchScan<8, 8, 32>(stream, arguments);
  } else if (size <= 512) {
    LaunchScan<4, 16, 32>(stream, arguments);
  } else {
    LaunchScan<2, 16, 64>(stream, arguments);
  }
}

void CheckLayer(const Mamba2Layer& layer) {
  bool fits = layer.inner_width > 0 && layer.state_size > 0 && layer.groups > 0 &&
              layer.heads > 0 && layer.inner_width % layer.heads == 0 &&
              layer.heads % layer.groups == 0 && layer.state_size <= kMaxStateSize;
  if (fits && layer.source_width > 0) {
    const int64_t groups = int64_t{layer.groups} * layer.state_size;
    fits = layer.inner_width % layer.source_width == 0 && groups % layer.source_width == 0 &&
           layer.source_width % layer.state_size == 0 &&
           layer.source_width % layer.head_width() == 0;
  }
  if (!fits) {
    Fail("Mamba-2 layer: inner width, state size, heads, groups, source width",
         {layer.inner_width, layer.state_size, layer.heads, layer.groups, layer.source_width});
  }
}

ConvolutionShape ConvolutionOf(const Mamba2Layer& layer, const Mamba2Widths& widths) {
  ConvolutionShape shape;
  shape.width = layer.convolution_width;
  shape.weights = layer.convolution;
  shape.bias = layer.convolution_bias;
  shape.channels = widths.channels;
  const int64_t x = widths.inner, b = x + widths.source_x, c = b + widths.source_b;
  shape.segments[0] = {0, widths.x, x, layer.head_width(), widths.x / widths.source_x};
  shape.segments[1] = {widths.x, widths.x + widths.b, b, layer.state_size,
                       widths.b / widths.source_b};
  shape.segments[2] = {widths.x + widths.b, shape.channels, c, 1, 1};
  shape.segment_count = 3;
  return shape;
}

}  // namespace

RecurrentSlotLayout Mamba2SlotLayout(const Mamba2Layer& layer, int window_rows,
                                     bool keeps_working) {
  CheckLayer(layer);
  const Mamba2Widths widths(layer);
  SlotParts parts;
  parts.state = int64_t{layer.inner_width} * layer.state_size;
  parts.channels = widths.channels;
  parts.replay_row = widths.x + widths.b + layer.heads;
  parts.convolution_width = layer.convolution_width;
  parts.waiting_rows = kWaitingRows;
  return LayoutOfSlot(parts, window_rows, keeps_working);
}

void Mamba2Scan(cudaStream_t stream, const Batch& batch, const Mamba2Layer& layer,
                const RecurrentState& state, const RowsView& projected, const RowsView& convolved,
                const RowsView& gated) {
  CheckLayer(layer);
  if (batch.sequences == 0) return;
  const Mamba2Arguments arguments{
      batch, layer, state, projected, convolved, gated, Mamba2Widths(layer)};
  if (!Mamba2FewRows(stream, arguments) && !Mamba2ManyRows(stream, arguments)) {
    ScanAnyRows(stream, arguments);
  }
}

void Mamba2Mix(cudaStream_t stream, const Batch& batch, const Mamba2Layer& layer,
               const RecurrentState& state, const RowsView& projected, const RowsView& convolved,
               const RowsView& out, const TokenTiles& tiles) {
  CheckLayer(layer);
  Convolve(stream, batch, ConvolutionOf(layer, Mamba2Widths(layer)), state, projected, convolved);
  Mamba2Scan(stream, batch, layer, state, projected, convolved, out);
  Mamba2Finish(stream, batch, layer, state, projected, convolved, out, tiles);
}

}  // namespace mambad::kernels::cuda
