// Mamba-1's recurrence where sequences have few rows: its time is that of reading and writing
// states.
//
// A warp has 32 channels of one sequence, and asks for all that they need at once. A lane
// holds four channels' numbers n = part, part + 4, part + 8, part + 12, and does alone for one of
// them what is done once a channel. Sums run as in mamba_scan.cu: a part's numbers lowest first,
// then parts pairwise.

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mamba_rows.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/recurrence.cuh"
#include "kernels/cuda/token_tiles.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kWarps = 4;  // of a block
constexpr int kStateSize = 16;
constexpr int kParts = 4;  // of a channel's numbers
constexpr int kNumbers = kStateSize / kParts;
constexpr int kQuads = kWarp / kParts;  // of channels in a warp
constexpr int kMostRows = 24;           // of a sequence, on average; more is for the other kernels

// A lane's channels, and where their numbers begin.
struct Channels {
  int quad, part;
  int own;                   // the channel that this lane does alone
  int64_t place;             // of number `part` of the first channel, in the state and in A
  int64_t b_place, c_place;  // of number `part`, in rows of B and C

  __device__ Channels(const MambaRows& arguments, int first) {
    const MambaLayer& layer = arguments.layer;
    const int lane = threadIdx.x % kWarp;
    quad = lane % kQuads;
    part = lane / kQuads;
    const int channel = first + quad * 4;
    own = channel + part;
    place = int64_t{channel / 16} * kStateSize * 16 + part * 16 + channel % 16;
    const int group = channel / (layer.inner_width / layer.groups);
    b_place = int64_t{group / (layer.groups / arguments.b_groups)} * kStateSize + part;
    c_place = int64_t{group} * kStateSize + part;
  }
};

struct Numbers {
  float4 of[kNumbers];  // numbers part + 4 k of four channels

  __device__ void Load(const float* from) {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      of[k] = *reinterpret_cast<const float4*>(from + k * kParts * 16);
    }
  }
  __device__ void Store(float* to) const {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) *reinterpret_cast<float4*>(to + k * kParts * 16) = of[k];
  }
};

// What a row feeds a lane.
struct RowInputs {
  float x = 0, delta = 0, z = 0;
  float b[kNumbers] = {}, c[kNumbers] = {};

  __device__ void Load(const MambaRows& arguments, const SequenceRows& rows,
                       const Channels& channels, int i) {
    const float* from_b = nullptr;
    if (i < rows.replay) {
      const int inner = arguments.layer.inner_width;
      const float* const kept = ReplayRow(rows, arguments.state.layout, i);
      x = kept[channels.own];
      delta = kept[inner + channels.own];
      from_b = kept + 2 * inner;
    } else {
      const int64_t row = rows.call_row(i);
      x = RowOf(arguments.x, row)[channels.own];
      delta = RowOf(arguments.delta, row)[channels.own];
      z = RowOf(arguments.z, row)[channels.own];
      from_b = RowOf(arguments.b, row);
      const float* const from_c = RowOf(arguments.c, row) + channels.c_place;
#pragma unroll
      for (int k = 0; k < kNumbers; ++k) c[k] = from_c[k * kParts];
    }
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) b[k] = from_b[channels.b_place + k * kParts];
  }
};

// The sum of all parts, of the channel that this lane does alone: (0 + 1) + (2 + 3).
__device__ inline float SumOfParts(const float (&y)[4], int part) {
  const bool odd = (part & 1) != 0, high = (part & 2) != 0;
  const float low = (odd ? y[1] : y[0]) + __shfl_xor_sync(kAllLanes, odd ? y[0] : y[1], kQuads);
  const float upper = (odd ? y[3] : y[2]) + __shfl_xor_sync(kAllLanes, odd ? y[2] : y[3], kQuads);
  return (high ? upper : low) + __shfl_xor_sync(kAllLanes, high ? low : upper, 2 * kQuads);
}

// s <- exp(dt A) s + (dt x) B for one row; returns the sum of s C of the lane's own channel. By the
// whole warp.
__device__ inline float RunRow(const Channels& channels, const RowInputs& row, float bias,
                               const Numbers& a, Numbers& s) {
  const float dt = Softplus(row.delta + bias), scaled = dt * kLog2e, input = dt * row.x;
  float y[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int lane = j * kQuads + channels.quad;
    const float dt_j = __shfl_sync(kAllLanes, scaled, lane);
    const float input_j = __shfl_sync(kAllLanes, input, lane);
    y[j] = 0;
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      float& number = reinterpret_cast<float(&)[4]>(s.of[k])[j];
      const float rate = reinterpret_cast<const float(&)[4]>(a.of[k])[j];
      number = fmaf(exp2f(dt_j * rate), number, input_j * row.b[k]);
      y[j] = fmaf(number, row.c[k], y[j]);
    }
  }
  return SumOfParts(y, channels.part);
}

// All rows of one sequence, whose state and first row are loaded.
__device__ inline void RunSequence(const MambaRows& arguments, const SequenceRows& rows,
                                   const Channels& channels, const Numbers& a, Numbers& s,
                                   RowInputs& row) {
  const RecurrentSlotLayout& layout = arguments.state.layout;
  const float bias = arguments.layer.dt_bias[channels.own];
  const float skip = arguments.layer.skip[channels.own];
  const int total = rows.total(), inner = arguments.layer.inner_width;
  for (int i = 0; i < total; ++i) {
    RowInputs next;
    if (i + 1 < total) next.Load(arguments, rows, channels, i + 1);
    const float y = RunRow(channels, row, bias, a, s);
    if (i >= rows.replay) {
      PutNumber(arguments.gated, arguments.tiles, rows.call_row(i), channels.own,
                fmaf(skip, row.x, y) * SiLU(row.z));
    }
    if (i >= rows.kept) {  // a row of the call: the replay rows were read
      float* const kept = KeptRow(rows, layout, i);
      kept[channels.own] = row.x;
      kept[inner + channels.own] = row.delta;
    }
    if (i + 1 == rows.stored) s.Store(rows.slot + layout.checkpoint + channels.place);
    row = next;
  }
  if (rows.stores_working) s.Store(rows.slot + layout.working + channels.place);
}

// Block (i, s): warps of 32 channels of sequence s.
__global__ void __launch_bounds__(kWarps* kWarp)
    ScanSequence(const __grid_constant__ MambaRows arguments) {
  FollowEarlierKernels();
  const int first = (blockIdx.x * kWarps + threadIdx.x / kWarp) * kWarp;
  if (first >= arguments.layer.inner_width) return;
  const SequenceRows rows = RowsOfSequence(arguments.batch, arguments.state, blockIdx.y);
  if (!rows.runs()) return;
  const Channels channels(arguments, first);
  Numbers s, a;
  s.Load(LoadedState(rows, arguments.state.layout) + channels.place);
  RowInputs row;
  row.Load(arguments, rows, channels, 0);
  a.Load(arguments.layer.a + channels.place);
  RunSequence(arguments, rows, channels, a, s, row);
}

}  // namespace

bool MambaFewRows(cudaStream_t stream, const MambaRows& arguments) {
  const Batch& batch = arguments.batch;
  const MambaLayer& layer = arguments.layer;
  const bool fits = layer.state_size == kStateSize && layer.inner_width % kWarp == 0 &&
                    layer.inner_width / layer.groups % 4 == 0 &&
                    reinterpret_cast<uintptr_t>(layer.a) % 16 == 0 &&
                    batch.rows <= int64_t{kMostRows} * batch.sequences;
  if (!fits) return false;
  constexpr int kChannels = kWarps * kWarp;
  const unsigned blocks = (layer.inner_width + kChannels - 1) / kChannels;
  LaunchEarly("MambaScan: few rows", stream, dim3(blocks, batch.sequences), dim3(kWarps * kWarp), 0,
              ScanSequence, arguments);
  return true;
}

}  // namespace mambad::kernels::cuda
