#include <algorithm>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/convolution.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mamba_channel.cuh"
#include "kernels/cuda/mamba_rows.h"
#include "kernels/cuda/mixers.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/recurrence.cuh"
#include "kernels/cuda/token_tiles.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kChunkRows = 32;  // that are prepared, run and finished together
constexpr int kMaxStateSize = 256;

struct MambaScanArguments {
  Batch batch;
  MambaLayer layer;
  RecurrentState state;
  RowsView x, delta, b, c, z, gated;
  TokenTiles tiles;
  int64_t b_width = 0;  // of all groups of B, before their repetition
  int b_groups = 1;
};

// What rows of a chunk mean to a block's channels.
template <int kChannels>
struct ScanChunk {
  float dt[kChunkRows][kChannels];     // dt log2(e)
  float input[kChunkRows][kChannels];  // dt x
  float y[kChunkRows][kChannels];
};

// Rows [begin, begin + count) of the recurrence: dt and dt x of each row and channel.
template <int kChannels>
__device__ void PrepareChunk(const MambaScanArguments& arguments, const SequenceRows& rows,
                             int begin, int count, ScanChunk<kChannels>& chunk) {
  const MambaLayer& layer = arguments.layer;
  const int i = threadIdx.x % kChannels, channel = blockIdx.x * kChannels + i;
  const bool inside = channel < layer.inner_width;
  const float bias = inside ? layer.dt_bias[channel] : 0.0f;
  for (int r = threadIdx.x / kChannels; r < count; r += kThreads / kChannels) {
    float x = 0, delta = 0;
    if (inside && begin + r < rows.replay) {
      const float* const kept = ReplayRow(rows, arguments.state.layout, begin + r);
      x = kept[channel];
      delta = kept[layer.inner_width + channel];
    } else if (inside) {
      const int64_t row = rows.call_row(begin + r);
      x = RowOf(arguments.x, row)[channel];
      delta = RowOf(arguments.delta, row)[channel];
    }
    const float dt = Softplus(delta + bias);
    chunk.dt[r][i] = dt * kLog2e;
    chunk.input[r][i] = dt * x;
  }
}

// out = (y + D x) SiLU(z) for the chunk's rows of the call; keeps x and delta of those that are to
// be kept: all replay rows of these channels were read by now.
template <int kChannels>
__device__ void FinishChunk(const MambaScanArguments& arguments, const SequenceRows& rows,
                            int begin, int count, const ScanChunk<kChannels>& chunk) {
  const MambaLayer& layer = arguments.layer;
  const int i = threadIdx.x % kChannels, channel = blockIdx.x * kChannels + i;
  if (channel >= layer.inner_width) return;
  const float skip = layer.skip[channel];
  for (int r = threadIdx.x / kChannels; r < count; r += kThreads / kChannels) {
    if (begin + r < rows.replay) continue;
    const int64_t row = rows.call_row(begin + r);
    const float x = RowOf(arguments.x, row)[channel];
    if (begin + r >= rows.kept) {
      float* const kept = KeptRow(rows, arguments.state.layout, begin + r);
      kept[channel] = x;
      kept[layer.inner_width + channel] = RowOf(arguments.delta, row)[channel];
    }
    const float z = RowOf(arguments.z, row)[channel];
    PutNumber(arguments.gated, arguments.tiles, row, channel,
              fmaf(skip, x, chunk.y[r][i]) * SiLU(z));
  }
}

// A channel of a block and sequence, and where its group's B and C begin in their rows.
template <int kLanes, int kNumbers>
struct BlockChannel : ChannelState<kLanes, kNumbers> {
  using State = ChannelState<kLanes, kNumbers>;

  int in_block = 0;  // of the block's channels
  int64_t b_place = 0, c_place = 0;

  __device__ explicit BlockChannel(const MambaScanArguments& arguments)
      : State(blockIdx.x * (kThreads / kLanes) + InBlock(), arguments.layer.inner_width,
              arguments.layer.state_size, arguments.layer.a),
        in_block(InBlock()) {
    const MambaLayer& layer = arguments.layer;
    const int group = this->inside ? this->channel / (layer.inner_width / layer.groups) : 0;
    b_place = int64_t{group / (layer.groups / arguments.b_groups)} * this->size;
    c_place = int64_t{group} * this->size;
  }

 private:
  __device__ static int InBlock() {
    const int thread = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    return warp * State::kApart + thread % State::kApart;
  }
};

// Rows [r, end) of a chunk; b and c: of the first of them. Rows that are replayed have no output.
template <bool kOutput, int kLanes, int kNumbers, int kChannels>
__device__ void RunRows(BlockChannel<kLanes, kNumbers>& state, int r, int end, const float* b,
                        int64_t b_stride, const float* c, int64_t c_stride,
                        ScanChunk<kChannels>& chunk) {
#pragma unroll 4
  for (; r < end; ++r) {
    state.Step(chunk.dt[r][state.in_block], chunk.input[r][state.in_block],
               [&](int n) { return __ldg(b + state.b_place + n); });
    b += b_stride;
    if constexpr (kOutput) {
      const float y = state.Output([&](int n) { return __ldg(c + state.c_place + n); });
      if (state.lane == 0) chunk.y[r][state.in_block] = y;
      c += c_stride;
    }
  }
}

// A block runs kThreads / kLanes channels of one sequence; their states stay in registers from the
// load to the last row. What B's replay rows hold is the same for all blocks and not written here.
template <int kLanes, int kNumbers>
__global__ void __launch_bounds__(kThreads)
    ScanChannels(const __grid_constant__ MambaScanArguments arguments) {
  constexpr int kChannels = kThreads / kLanes;
  __shared__ ScanChunk<kChannels> chunk;
  const RecurrentSlotLayout& layout = arguments.state.layout;
  const SequenceRows rows = RowsOfSequence(arguments.batch, arguments.state, blockIdx.y);
  if (!rows.runs()) return;
  BlockChannel<kLanes, kNumbers> state(arguments);
  state.Load(LoadedState(rows, layout));
  const int total = rows.total();
  for (int begin = 0; begin < total; begin += kChunkRows) {
    const int count = min(kChunkRows, total - begin);
    PrepareChunk(arguments, rows, begin, count, chunk);
    __syncthreads();
    for (int i = begin; i < begin + count;) {
      const int end = SegmentEnd(rows, i, begin + count);
      if (i < rows.replay) {
        const float* const b = ReplayRow(rows, layout, i) + 2 * arguments.layer.inner_width;
        RunRows<false>(state, i - begin, end - begin, b, layout.replay_row, nullptr, 0, chunk);
      } else {
        const int64_t row = rows.call_row(i);
        RunRows<true>(state, i - begin, end - begin, RowOf(arguments.b, row), arguments.b.stride,
                      RowOf(arguments.c, row), arguments.c.stride, chunk);
      }
      if (end == rows.stored) state.Store(rows.slot + layout.checkpoint);
      i = end;
    }
    __syncthreads();
    FinishChunk(arguments, rows, begin, count, chunk);
  }
  if (rows.stores_working) state.Store(rows.slot + layout.working);
}

// Copies the kept rows of B to their replay rows, which by now all have read. Block (i, s): row
// kept + i of sequence s.
__global__ void __launch_bounds__(kThreads)
    KeepRowsOfB(const __grid_constant__ MambaScanArguments arguments) {
  FollowEarlierKernels();
  const SequenceRows rows = RowsOfSequence(arguments.batch, arguments.state, blockIdx.y);
  const int i = rows.kept + static_cast<int>(blockIdx.x);
  if (i >= rows.total()) return;
  const float* const from = RowOf(arguments.b, rows.call_row(i));
  float* const to =
      KeptRow(rows, arguments.state.layout, i) + 2 * int64_t{arguments.layer.inner_width};
  for (int64_t k = threadIdx.x; k < arguments.b_width; k += kThreads) to[k] = from[k];
}

template <int kLanes, int kNumbers>
void LaunchScan(cudaStream_t stream, const MambaScanArguments& arguments) {
  constexpr int kChannels = kThreads / kLanes;
  const dim3 grid((arguments.layer.inner_width + kChannels - 1) / kChannels,
                  arguments.batch.sequences);
  ScanChannels<kLanes, kNumbers><<<grid, kThreads, 0, stream>>>(arguments);
  CheckLaunch("MambaScan");
}

void ScanAnyRows(cudaStream_t stream, const MambaScanArguments& arguments) {
  const int size = arguments.layer.state_size;
  if (size <= 16) {
    LaunchScan<4, 4>(stream, arguments);
  } else if (size <= 32) {
    LaunchScan<4, 8>(stream, arguments);
  } else if (size <= 64) {
    LaunchScan<8, 8>(stream, arguments);
  } else if (size <= 128) {
    LaunchScan<16, 8>(stream, arguments);
  } else {
    LaunchScan<32, 8>(stream, arguments);
  }
}

// Groups of B before their repetition.
int GroupsOfB(const MambaLayer& layer) {
  return layer.source_width > 0 ? layer.source_width / layer.state_size : layer.groups;
}

void CheckLayer(const MambaLayer& layer) {
  const bool sizes = layer.inner_width > 0 && layer.state_size > 0 && layer.groups > 0 &&
                     layer.state_size <= kMaxStateSize;
  const bool groups = sizes && layer.inner_width % layer.groups == 0;
  const bool sources =
      groups && (layer.source_width == 0 || (layer.source_width % layer.state_size == 0 &&
                                             layer.inner_width % layer.source_width == 0 &&
                                             layer.groups % GroupsOfB(layer) == 0));
  if (!sources) {
    Fail("Mamba layer: inner width, state size, groups, source width",
         {layer.inner_width, layer.state_size, layer.groups, layer.source_width});
  }
}

}  // namespace

RecurrentSlotLayout MambaSlotLayout(const MambaLayer& layer, int window_rows, bool keeps_working) {
  CheckLayer(layer);
  SlotParts parts;
  parts.state = RoundUp16(layer.inner_width) * layer.state_size;
  parts.channels = layer.convolution_channels();
  parts.replay_row = 2 * int64_t{layer.inner_width} + int64_t{GroupsOfB(layer)} * layer.state_size;
  parts.convolution_width = layer.convolution_width;
  return LayoutOfSlot(parts, window_rows, keeps_working);
}

void MambaConvolution(cudaStream_t stream, const Batch& batch, const MambaLayer& layer,
                      const RecurrentState& state, const RowsView& projected, const RowsView& x_out,
                      const TokenTiles& tiles) {
  const bool repeats = layer.source_width > 0 && layer.source_width != layer.inner_width;
  ConvolutionShape shape;
  shape.width = layer.convolution_width;
  shape.weights = layer.convolution;
  shape.bias = layer.convolution_bias;
  shape.channels = layer.convolution_channels();
  shape.segments[0] = {0, shape.channels, 0, 1, 1};
  shape.segment_count = 1;
  if (repeats) {
    const int64_t times = layer.inner_width / layer.source_width;
    (layer.repeat_before_convolution ? shape.segments[0].repeats : shape.out_repeats) = times;
    (layer.repeat_before_convolution ? shape.segments[0].group : shape.out_group) =
        layer.state_size;
  }
  Convolve(stream, batch, shape, state, projected, x_out, tiles);
}

void MambaScan(cudaStream_t stream, const Batch& batch, const MambaLayer& layer,
               const RecurrentState& state, const RowsView& x, const RowsView& delta,
               const RowsView& b, const RowsView& c, const RowsView& z, const RowsView& gated,
               const TokenTiles& tiles) {
  CheckLayer(layer);
  if (batch.sequences == 0) return;
  MambaScanArguments arguments{batch, layer, state, x, delta, b, c, z, gated, tiles};
  arguments.b_groups = GroupsOfB(layer);
  arguments.b_width = int64_t{arguments.b_groups} * layer.state_size;
  const MambaRows rows{batch, layer, state, x, delta, b, c, z, gated, tiles, arguments.b_groups};
  if (!MambaFewRows(stream, rows) && !MambaManyRows(stream, rows)) ScanAnyRows(stream, arguments);
  const int kept = std::min(batch.rows, state.layout.replay_rows);
  if (kept == 0) return;
  LaunchEarly("MambaScan: replay rows", stream, dim3(kept, batch.sequences), dim3(kThreads), 0,
              KeepRowsOfB, arguments);
}

}  // namespace mambad::kernels::cuda
