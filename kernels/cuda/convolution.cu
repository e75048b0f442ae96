#include <algorithm>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/convolution.h"
#include "kernels/cuda/errors.h"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 128;
// Rows of a sequence that a thread takes one after the other. No fewer than there are taps before a
// row: so only a sequence's first tile looks into the ring, and it alone may write to it, when it
// has read what it needs.
constexpr int kTileRows = 8;
static_assert(kTileRows >= kMaxConvolutionWidth - 1, "later tiles find all taps in the call");

__device__ int64_t SourceColumn(const ConvolutionShape& shape, int64_t channel) {
  int i = 0;
  while (i + 1 < shape.segment_count && channel >= shape.segments[i].end) ++i;
  const ChannelSegment& segment = shape.segments[i];
  const int64_t at = channel - segment.begin;
  if (segment.repeats == 1) return segment.source + at;
  return segment.source + at / (segment.group * segment.repeats) * segment.group +
         at % segment.group;
}

__device__ void StoreResult(const ConvolutionShape& shape, int64_t channel, float result,
                            float* row) {
  if (shape.out_repeats == 1) {
    row[channel] = result;
    return;
  }
  const int64_t group = channel / shape.out_group, at = channel % shape.out_group;
  for (int64_t k = 0; k < shape.out_repeats; ++k) {
    row[(group * shape.out_repeats + k) * shape.out_group + at] = result;
  }
}

// A block takes kThreads channels of one tile of rows, each thread one channel: the taps slide
// through registers.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    ConvolveTile(const __grid_constant__ Batch batch,
                 const __grid_constant__ ConvolutionShape shape,
                 const __grid_constant__ RecurrentState state, const __grid_constant__ RowsView in,
                 const __grid_constant__ RowsView out) {
  const SequenceTile tile = TileOfItem(batch, blockIdx.x, kTileRows, 1);
  const int64_t channel = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (tile.first >= tile.rows || channel >= shape.channels) return;
  const float* const column = in.data + tile.row_begin * in.stride + SourceColumn(shape, channel);
  const int64_t position = batch.position[tile.sequence];
  float* const ring =
      state.data + batch.slot[tile.sequence] * state.slot_stride + state.layout.ring + channel;
  const auto ring_place = [&](int64_t p) { return p % state.layout.ring_rows * shape.channels; };

  float weights[kWidth], taps[kWidth];  // taps[kWidth - 1]: the row's own
#pragma unroll
  for (int j = 0; j < kWidth; ++j) weights[j] = shape.weights[channel * kWidth + j];
  const float bias = shape.bias == nullptr ? 0.0f : shape.bias[channel];
#pragma unroll
  for (int j = 1; j < kWidth; ++j) {
    const int64_t row = tile.first - kWidth + j;
    taps[j] = 0.0f;
    if (row >= 0) {
      taps[j] = column[row * in.stride];
    } else if (position + row >= 0) {
      taps[j] = ring[ring_place(position + row)];
    }
  }
  const int64_t end = min(tile.first + kTileRows, tile.rows);
#pragma unroll 4
  for (int64_t row = tile.first; row < end; ++row) {
#pragma unroll
    for (int j = 0; j + 1 < kWidth; ++j) taps[j] = taps[j + 1];
    taps[kWidth - 1] = column[row * in.stride];
    float sum = bias;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum = fmaf(weights[j], taps[j], sum);
    StoreResult(shape, channel, SiLU(sum), RowOf(out, tile.row_begin + row));
  }
  if (tile.first > 0) return;
  for (int64_t row = max(tile.rows - state.layout.ring_rows, int64_t{0}); row < tile.rows; ++row) {
    ring[ring_place(position + row)] = column[row * in.stride];
  }
}

template <int kWidth>
void Launch(cudaStream_t stream, const Batch& batch, const ConvolutionShape& shape,
            const RecurrentState& state, const RowsView& in, const RowsView& out) {
  if (shape.width != kWidth) {
    if constexpr (kWidth < kMaxConvolutionWidth)
      Launch<kWidth + 1>(stream, batch, shape, state, in, out);
    return;
  }
  const dim3 grid(static_cast<unsigned>(TileItems(batch, kTileRows, 1)),
                  static_cast<unsigned>((shape.channels + kThreads - 1) / kThreads));
  ConvolveTile<kWidth><<<grid, kThreads, 0, stream>>>(batch, shape, state, in, out);
  CheckLaunch("Convolve");
}

}  // namespace

void Convolve(cudaStream_t stream, const Batch& batch, const ConvolutionShape& shape,
              const RecurrentState& state, const RowsView& in, const RowsView& out) {
  const int ring_rows = std::max(1, shape.width - 1 + state.layout.window_rows);
  if (shape.width < 1 || shape.width > kMaxConvolutionWidth || state.layout.ring_rows < ring_rows ||
      shape.channels < 1) {
    Fail("convolution: width, ring rows, window rows, channels",
         {shape.width, state.layout.ring_rows, state.layout.window_rows, shape.channels});
  }
  if (batch.rows == 0 || batch.sequences == 0) return;
  Launch<1>(stream, batch, shape, state, in, out);
}

}  // namespace mambad::kernels::cuda
