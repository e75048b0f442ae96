#include <algorithm>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/convolution.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/token_tiles.cuh"

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
                 const __grid_constant__ RowsView out, const __grid_constant__ TokenTiles tiles) {
  FollowEarlierKernels();
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
    const float result = SiLU(sum);
    StoreResult(shape, channel, result, RowOf(out, tile.row_begin + row));
    if (tiles.data != nullptr) PutNumber(out, tiles, tile.row_begin + row, channel, result);
  }
  if (tile.first > 0) return;
  for (int64_t row = max(tile.rows - state.layout.ring_rows, int64_t{0}); row < tile.rows; ++row) {
    ring[ring_place(position + row)] = column[row * in.stride];
  }
}

// ---- four channels a thread ---------------------------------------------------------------------

__device__ inline float4 FourOf(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}

// Weights and bias of four channels.
template <int kWidth>
struct QuadWeights {
  float flat[4 * kWidth];  // channel by channel
  float4 bias = {0, 0, 0, 0};

  __device__ QuadWeights(const ConvolutionShape& shape, int64_t channel) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const float4 four = FourOf(shape.weights + channel * kWidth + 4 * j);
      flat[4 * j] = four.x;
      flat[4 * j + 1] = four.y;
      flat[4 * j + 2] = four.z;
      flat[4 * j + 3] = four.w;
    }
    if (shape.bias != nullptr) bias = FourOf(shape.bias + channel);
  }

  __device__ float4 Result(const float4 (&taps)[kWidth]) const {
    float4 sum = bias;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      sum.x = fmaf(flat[j], taps[j].x, sum.x);
      sum.y = fmaf(flat[kWidth + j], taps[j].y, sum.y);
      sum.z = fmaf(flat[2 * kWidth + j], taps[j].z, sum.z);
      sum.w = fmaf(flat[3 * kWidth + j], taps[j].w, sum.w);
    }
    return {SiLU(sum.x), SiLU(sum.y), SiLU(sum.z), SiLU(sum.w)};
  }
};

// As ConvolveTile; kWhole: block x has all rows of sequence x, which are few.
template <int kWidth, bool kWhole>
__global__ void __launch_bounds__(kThreads)
    ConvolveQuads(const __grid_constant__ Batch batch,
                  const __grid_constant__ ConvolutionShape shape,
                  const __grid_constant__ RecurrentState state, const __grid_constant__ RowsView in,
                  const __grid_constant__ RowsView out, const __grid_constant__ TokenTiles tiles) {
  FollowEarlierKernels();
  SequenceTile tile;
  if constexpr (kWhole) {
    tile.sequence = blockIdx.x;
    tile.row_begin = batch.row_begin[tile.sequence];
    tile.rows = batch.row_begin[tile.sequence + 1] - tile.row_begin;
  } else {
    tile = TileOfItem(batch, blockIdx.x, kTileRows, 1);
  }
  const int64_t channel = 4 * (int64_t{blockIdx.y} * kThreads + threadIdx.x);
  if (tile.first >= tile.rows || channel >= shape.channels) return;
  const float* const column = in.data + tile.row_begin * in.stride + SourceColumn(shape, channel);
  const int position = batch.position[tile.sequence];
  float* const ring =
      state.data + batch.slot[tile.sequence] * state.slot_stride + state.layout.ring + channel;
  const auto ring_place = [&](int64_t row) {
    const unsigned p = static_cast<unsigned>(position + static_cast<int>(row));
    return int64_t{p % static_cast<unsigned>(state.layout.ring_rows)} * shape.channels;
  };

  float4 taps[kWidth];  // taps[kWidth - 1]: the row's own
#pragma unroll
  for (int j = 1; j < kWidth; ++j) {
    const int64_t row = tile.first - kWidth + j;
    taps[j] = {0, 0, 0, 0};
    if (row >= 0) {
      taps[j] = FourOf(column + row * in.stride);
    } else if (position + row >= 0) {
      taps[j] = FourOf(ring + ring_place(row));
    }
  }
  const QuadWeights<kWidth> weights(shape, channel);
  const int64_t end = kWhole ? tile.rows : min(tile.first + kTileRows, tile.rows);
#pragma unroll 4
  for (int64_t row = tile.first; row < end; ++row) {
#pragma unroll
    for (int j = 0; j + 1 < kWidth; ++j) taps[j] = taps[j + 1];
    taps[kWidth - 1] = FourOf(column + row * in.stride);
    const float4 result = weights.Result(taps);
    *reinterpret_cast<float4*>(RowOf(out, tile.row_begin + row) + channel) = result;
    if (tiles.data != nullptr) {
      const TileRow to(tiles, static_cast<int>(tile.row_begin + row));
      to.PutFour(static_cast<int>(channel), result);
    }
  }
  if (tile.first > 0) return;
  for (int64_t row = max(tile.rows - state.layout.ring_rows, int64_t{0}); row < tile.rows; ++row) {
    *reinterpret_cast<float4*>(ring + ring_place(row)) = FourOf(column + row * in.stride);
  }
}

// Whether each thread may take four channels that lie together.
bool HasQuads(const ConvolutionShape& shape, const RowsView& in, const RowsView& out) {
  bool quads = shape.channels % 4 == 0 && shape.out_repeats == 1;
  for (int i = 0; i < shape.segment_count; ++i) {
    const ChannelSegment& segment = shape.segments[i];
    quads = quads && segment.repeats == 1 && segment.begin % 4 == 0 && segment.source % 4 == 0;
  }
  for (const RowsView* view : {&in, &out}) {
    quads = quads && view->stride % 4 == 0 && reinterpret_cast<uintptr_t>(view->data) % 16 == 0;
  }
  for (const float* numbers : {shape.weights, shape.bias}) {
    quads = quads && reinterpret_cast<uintptr_t>(numbers) % 16 == 0;
  }
  return quads;
}

template <int kWidth>
void Start(cudaStream_t stream, const Batch& batch, const ConvolutionShape& shape,
           const RecurrentState& state, const RowsView& in, const RowsView& out,
           const TokenTiles& tiles) {
  if (shape.width != kWidth) {
    if constexpr (kWidth < kMaxConvolutionWidth)
      Start<kWidth + 1>(stream, batch, shape, state, in, out, tiles);
    return;
  }
  const auto launch = [&](auto* kernel, int64_t items, int64_t columns) {
    const dim3 grid(static_cast<unsigned>(items),
                    static_cast<unsigned>((columns + kThreads - 1) / kThreads));
    LaunchEarly("Convolve", stream, grid, dim3(kThreads), 0, kernel, batch, shape, state, in, out,
                tiles);
  };
  const int64_t items = TileItems(batch, kTileRows, 1);
  if (!HasQuads(shape, in, out)) {
    launch(ConvolveTile<kWidth>, items, shape.channels);
  } else if (batch.rows <= int64_t{kTileRows} * batch.sequences) {
    launch(ConvolveQuads<kWidth, true>, batch.sequences, shape.channels / 4);
  } else {
    launch(ConvolveQuads<kWidth, false>, items, shape.channels / 4);
  }
}

}  // namespace

void Convolve(cudaStream_t stream, const Batch& batch, const ConvolutionShape& shape,
              const RecurrentState& state, const RowsView& in, const RowsView& out,
              const TokenTiles& tiles) {
  const int ring_rows = std::max(1, shape.width - 1 + state.layout.window_rows);
  if (shape.width < 1 || shape.width > kMaxConvolutionWidth || state.layout.ring_rows < ring_rows ||
      shape.channels < 1 || (tiles && shape.out_repeats != 1)) {
    Fail("convolution: width, ring rows, window rows, channels, repeats",
         {shape.width, state.layout.ring_rows, state.layout.window_rows, shape.channels,
          shape.out_repeats});
  }
  if (batch.rows == 0 || batch.sequences == 0) return;
  Start<1>(stream, batch, shape, state, in, out, tiles);
}

}  // namespace mambad::kernels::cuda
