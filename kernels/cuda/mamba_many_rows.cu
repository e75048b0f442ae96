// Mamba-1's recurrence where sequences have many rows, as in prompts: its time is that of the
// exponentials, one for each row, channel and state number.
//
// Of a block's warps half run the recurrence, 8 channels each, chunk after chunk of rows; the other
// half prepare the next chunk meanwhile and finish the last one, so that nobody waits for memory.
// Four lanes a channel, four numbers each, as in mamba_scan.cu, and sums in the same order.

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/mamba_rows.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/recurrence.cuh"
#include "kernels/cuda/token_tiles.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kRunners = 2;  // warps of a block that run the recurrence; as many help them
constexpr int kStateSize = 16;
constexpr int kParts = 4, kNumbers = 4;        // of a channel: lanes, numbers of each
constexpr int kOfWarp = kWarp / kParts;        // channels
constexpr int kChannels = kRunners * kOfWarp;  // of a block
constexpr int kChunkRows = 32;
constexpr int kOwn = kChunkRows * kOfWarp / kWarp;  // rows and channels that a helper has of one
constexpr int kThreads = 2 * kRunners * kWarp;
// |x| up to here: 2^x is a number that needs no scaling, and one instruction gives what exp2f does.
constexpr float kPlainExponents = 120;

struct Chunks {
  float2 step[2][kChunkRows][kChannels];  // dt log2(e), dt x
  float y[2][kChunkRows][kChannels];
  // Number n at n % 4 * 4 + n / 4: a lane's together.
  alignas(16) float b[3][kChunkRows][kStateSize];
  alignas(16) float c[3][kChunkRows][kStateSize];
};

template <bool kPlain>
__device__ __forceinline__ float PowerOfTwo(float x) {
  if constexpr (!kPlain) return exp2f(x);
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

// ---- helpers ------------------------------------------------------------------------------------

// Of a helper's lane: one channel, and of each chunk the rows line + 4 j.
struct Helper {
  const MambaRows& arguments;
  const SequenceRows& rows;
  int in_block, channel, line, thread;  // thread: among the helpers
  int64_t b_place, c_place;
  float bias, skip;
  float x[kOwn], delta[kOwn];  // of the chunk that is prepared next

  __device__ Helper(const MambaRows& of, const SequenceRows& sequence)
      : arguments(of), rows(sequence), thread(threadIdx.x - kRunners * kWarp) {
    const MambaLayer& layer = arguments.layer;
    in_block = thread / kWarp * kOfWarp + thread % kOfWarp;
    line = thread % kWarp / kOfWarp;
    channel = blockIdx.x * kChannels + in_block;
    const int group = blockIdx.x * kChannels / (layer.inner_width / layer.groups);
    b_place = int64_t{group / (layer.groups / arguments.b_groups)} * kStateSize;
    c_place = int64_t{group} * kStateSize;
    bias = layer.dt_bias[channel];
    skip = layer.skip[channel];
  }

  // All rows of a chunk are there, of the call, and not kept: nobody has to look at each.
  __device__ bool IsPlain(int chunk) const {
    const int begin = chunk * kChunkRows;
    return begin >= rows.replay && begin + kChunkRows <= min(rows.total(), rows.kept);
  }
  // Column `column` of a view in row i of the recurrence, which is one of the call.
  __device__ float* Of(const RowsView& view, int i, int64_t column) const {
    return RowOf(view, rows.call_row(i)) + column;
  }

  // B and C of a chunk begin to come.
  __device__ void Fetch(int chunk, Chunks& chunks) const {
    constexpr int kTogether = kRunners * kWarp / kStateSize;  // rows
    const int n = thread % kStateSize, r = thread / kStateSize, i = chunk * kChunkRows + r;
    float* b = &chunks.b[chunk % 3][r][n % kParts * kNumbers + n / kParts];
    float* c = &chunks.c[chunk % 3][r][n % kParts * kNumbers + n / kParts];
    if (IsPlain(chunk)) {
      const float* from_b = Of(arguments.b, i, b_place + n);
      const float* from_c = Of(arguments.c, i, c_place + n);
#pragma unroll
      for (int j = 0; j < kChunkRows / kTogether; ++j) {
        CopyWordAsync(b + j * kTogether * kStateSize, from_b);
        CopyWordAsync(c + j * kTogether * kStateSize, from_c);
        from_b += kTogether * arguments.b.stride;
        from_c += kTogether * arguments.c.stride;
      }
      return;
    }
    const int64_t kept_b = 2 * int64_t{arguments.layer.inner_width};
    for (int j = 0; j < kChunkRows && i + j < rows.total(); j += kTogether) {
      if (i + j < rows.replay) {
        const float* const kept = ReplayRow(rows, arguments.state.layout, i + j);
        CopyWordAsync(b + j * kStateSize, kept + kept_b + b_place + n);
      } else {
        CopyWordAsync(b + j * kStateSize, Of(arguments.b, i + j, b_place + n));
        CopyWordAsync(c + j * kStateSize, Of(arguments.c, i + j, c_place + n));
      }
    }
  }

  __device__ void Load(int chunk) {
    const int first = chunk * kChunkRows + line;
    if (IsPlain(chunk)) {
      LoadColumn(arguments.x, first, x);
      LoadColumn(arguments.delta, first, delta);
      return;
    }
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int i = first + j * kParts;
      x[j] = delta[j] = 0;
      if (i >= rows.total()) continue;
      if (i < rows.replay) {
        const float* const kept = ReplayRow(rows, arguments.state.layout, i);
        x[j] = kept[channel];
        delta[j] = kept[arguments.layer.inner_width + channel];
      } else {
        x[j] = *Of(arguments.x, i, channel);
        delta[j] = *Of(arguments.delta, i, channel);
      }
    }
  }

  // The loaded chunk's steps.
  __device__ void Prepare(int chunk, Chunks& chunks) const {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const float dt = Softplus(delta[j] + bias);
      chunks.step[chunk & 1][line + j * kParts][in_block] = {dt * kLog2e, dt * x[j]};
    }
  }

  // x and z of a chunk that was run.
  __device__ void LoadFinished(int chunk, float (&own_x)[kOwn], float (&own_z)[kOwn]) const {
    const int first = chunk * kChunkRows + line;
    if (IsPlain(chunk)) {
      LoadColumn(arguments.x, first, own_x);
      LoadColumn(arguments.z, first, own_z);
      return;
    }
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int i = first + j * kParts;
      own_x[j] = own_z[j] = 0;
      if (i >= rows.total() || i < rows.replay) continue;
      own_x[j] = *Of(arguments.x, i, channel);
      own_z[j] = *Of(arguments.z, i, channel);
    }
  }

  // out = (y + D x) SiLU(z) of a chunk that was run; keeps x and delta of rows that are to be kept.
  __device__ void Finish(int chunk, const Chunks& chunks, const float (&own_x)[kOwn],
                         const float (&own_z)[kOwn]) const {
    const int first = chunk * kChunkRows + line;
    const auto result = [&](int j) {
      const float y = chunks.y[chunk & 1][line + j * kParts][in_block];
      return fmaf(skip, own_x[j], y) * SiLU(own_z[j]);
    };
    if (IsPlain(chunk) && arguments.tiles.data == nullptr) {
      float* to = Of(arguments.gated, first, channel);
#pragma unroll
      for (int j = 0; j < kOwn; ++j, to += kParts * arguments.gated.stride) *to = result(j);
      return;
    }
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int i = first + j * kParts;
      if (i >= rows.total() || i < rows.replay) continue;
      if (i >= rows.kept) {
        float* const kept = KeptRow(rows, arguments.state.layout, i);
        kept[channel] = own_x[j];
        kept[arguments.layer.inner_width + channel] = *Of(arguments.delta, i, channel);
      }
      PutNumber(arguments.gated, arguments.tiles, rows.call_row(i), channel, result(j));
    }
  }

 private:
  __device__ void LoadColumn(const RowsView& view, int first, float (&numbers)[kOwn]) const {
    const float* from = Of(view, first, channel);
#pragma unroll
    for (int j = 0; j < kOwn; ++j, from += kParts * view.stride) numbers[j] = *from;
  }
};

__device__ void Help(const MambaRows& arguments, const SequenceRows& rows, int count,
                     Chunks& chunks) {
  Helper helper(arguments, rows);
  for (int chunk = 0; chunk < 2; ++chunk) {
    helper.Fetch(chunk, chunks);
    CommitCopies();
  }
  helper.Load(0);
  helper.Prepare(0, chunks);
  helper.Load(1);
  WaitForCopies<1>();
  __syncthreads();
  for (int chunk = 0; chunk <= count; ++chunk) {  // is run meanwhile
    if (chunk + 2 < count) helper.Fetch(chunk + 2, chunks);
    CommitCopies();
    float x[kOwn], z[kOwn];
    if (chunk > 0) helper.LoadFinished(chunk - 1, x, z);
    if (chunk + 1 < count) {
      helper.Prepare(chunk + 1, chunks);
      helper.Load(chunk + 2);
    }
    if (chunk > 0) helper.Finish(chunk - 1, chunks, x, z);
    WaitForCopies<1>();
    __syncthreads();
  }
}

// ---- runners ------------------------------------------------------------------------------------

// Of a runner's lane: numbers part + 4 k of one channel.
struct Runner {
  int part, in_block;
  int64_t place;
  float a[kNumbers], s[kNumbers];
  float largest = 0;  // of |A|

  __device__ explicit Runner(const MambaLayer& layer) {
    const int lane = threadIdx.x % kWarp;
    part = lane / kOfWarp;
    in_block = threadIdx.x / kWarp * kOfWarp + lane % kOfWarp;
    const int channel = blockIdx.x * kChannels + in_block;
    place = int64_t{channel / 16} * kStateSize * 16 + part * 16 + channel % 16;
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      a[k] = layer.a[place + k * kParts * 16];
      largest = fmaxf(largest, fabsf(a[k]));
    }
  }
  __device__ void Load(const float* from) {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) s[k] = from[place + k * kParts * 16];
  }
  __device__ void Store(float* to) const {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) to[place + k * kParts * 16] = s[k];
  }

  // One row; returns the sum of the lane's numbers times C, lowest first.
  template <bool kPlain>
  __device__ __forceinline__ float Step(const float2& step, const float4& b, const float4& c) {
    const float b_k[kNumbers] = {b.x, b.y, b.z, b.w}, c_k[kNumbers] = {c.x, c.y, c.z, c.w};
    float y = 0;
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      s[k] = fmaf(PowerOfTwo<kPlain>(step.x * a[k]), s[k], step.y * b_k[k]);
      y = fmaf(s[k], c_k[k], y);
    }
    return y;
  }
};

// Lane part p gets the sum over parts of the p-th of four rows: (0 + 1) + (2 + 3).
__device__ __forceinline__ float SumOfParts(const float (&y)[kParts], int part) {
  const bool odd = (part & 1) != 0, high = (part & 2) != 0;
  const float low = (odd ? y[1] : y[0]) + __shfl_xor_sync(kAllLanes, odd ? y[0] : y[1], kOfWarp);
  const float upper = (odd ? y[3] : y[2]) + __shfl_xor_sync(kAllLanes, odd ? y[2] : y[3], kOfWarp);
  return (high ? upper : low) + __shfl_xor_sync(kAllLanes, high ? low : upper, 2 * kOfWarp);
}

// Rows [r, end) of a chunk, four by four.
__device__ void RunRows(Runner& runner, int chunk, int r, int end, Chunks& chunks) {
  const float2(&steps)[kChunkRows][kChannels] = chunks.step[chunk & 1];
  float(&out)[kChunkRows][kChannels] = chunks.y[chunk & 1];
  const int buffer = chunk % 3;
  const auto four = [](const float* numbers, int part) {
    return *reinterpret_cast<const float4*>(numbers + part * kNumbers);
  };
#pragma unroll 2
  for (; r + kParts <= end; r += kParts) {
    float2 step[kParts];
    float4 b[kParts], c[kParts];
    float longest = 0, y[kParts];
#pragma unroll
    for (int j = 0; j < kParts; ++j) {
      step[j] = steps[r + j][runner.in_block];
      b[j] = four(chunks.b[buffer][r + j], runner.part);
      c[j] = four(chunks.c[buffer][r + j], runner.part);
      longest = fmaxf(longest, step[j].x);
    }
    if (longest * runner.largest <= kPlainExponents) {
#pragma unroll
      for (int j = 0; j < kParts; ++j) y[j] = runner.Step<true>(step[j], b[j], c[j]);
    } else {
#pragma unroll
      for (int j = 0; j < kParts; ++j) y[j] = runner.Step<false>(step[j], b[j], c[j]);
    }
    out[r + runner.part][runner.in_block] = SumOfParts(y, runner.part);
  }
  for (; r < end; ++r) {
    float y[kParts] = {};
    y[0] = runner.Step<false>(steps[r][runner.in_block], four(chunks.b[buffer][r], runner.part),
                              four(chunks.c[buffer][r], runner.part));
    const float sum = SumOfParts(y, runner.part);
    if (runner.part == 0) out[r][runner.in_block] = sum;
  }
}

__device__ void Run(const MambaRows& arguments, const SequenceRows& rows, int count,
                    Chunks& chunks) {
  const RecurrentSlotLayout& layout = arguments.state.layout;
  Runner runner(arguments.layer);
  runner.Load(LoadedState(rows, layout));
  __syncthreads();
  for (int chunk = 0; chunk <= count; ++chunk) {  // the last time for helpers alone
    const int begin = chunk * kChunkRows, behind = min(begin + kChunkRows, rows.total());
    for (int i = begin; i < behind;) {
      const int end = i < rows.stored ? min(behind, rows.stored) : behind;
      RunRows(runner, chunk, i - begin, end - begin, chunks);
      if (end == rows.stored) runner.Store(rows.slot + layout.checkpoint);
      i = end;
    }
    __syncthreads();
  }
  if (rows.stores_working) runner.Store(rows.slot + layout.working);
}

// Block (i, s): channels kChannels i .. of sequence s.
__global__ void __launch_bounds__(kThreads)
    ScanChunks(const __grid_constant__ MambaRows arguments) {
  __shared__ Chunks chunks;
  const SequenceRows rows = RowsOfSequence(arguments.batch, arguments.state, blockIdx.y);
  if (!rows.runs()) return;
  const int count = (rows.total() + kChunkRows - 1) / kChunkRows;
  if (threadIdx.x < kRunners * kWarp) {
    Run(arguments, rows, count, chunks);
  } else {
    Help(arguments, rows, count, chunks);
  }
}

}  // namespace

bool MambaManyRows(cudaStream_t stream, const MambaRows& arguments) {
  const MambaLayer& layer = arguments.layer;
  if (layer.state_size != kStateSize || layer.inner_width / layer.groups % kChannels != 0) {
    return false;
  }
  const dim3 grid(layer.inner_width / kChannels, arguments.batch.sequences);
  ScanChunks<<<grid, kThreads, 0, stream>>>(arguments);
  CheckLaunch("MambaScan: many rows");
  return true;
}

}  // namespace mambad::kernels::cuda
