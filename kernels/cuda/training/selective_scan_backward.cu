// Mamba-1 selective scan, backward: from the last chunk of tokens to the first, each run forward
// again from its kept state into registers and then back.

#include "kernels/cuda/training/column_sum.h"
#include "kernels/cuda/training/selective_scan_tiles.cuh"

namespace mambad::kernels::cuda {
namespace {

using namespace selective;  // NOLINT: this file is half of one family

struct Gradients {
  InputRows y;
  OutputRows x, delta, z;
  // Sums over `unit` neighbouring channels of one group: [rows, channels / unit, state_size].
  float *b, *c;
  OutputRows whole_c;  // instead of c where a unit is a whole group
  int unit;
  float* parameters;  // [sequences, channels * (state_size + 2)]: A_log, D, dt_bias
};

__device__ float4 LoadFour(const float* from) { return *reinterpret_cast<const float4*>(from); }

// Sums of three numbers over a channel's four lanes: lane i gets number i.
__device__ float SumOverLanes(float first, float second, float third, int lane) {
  const bool odd = lane & 1, upper = lane & 2;
  const float low = (odd ? second : first) + __shfl_xor_sync(kAll, odd ? first : second, 1);
  const float high = third + __shfl_xor_sync(kAll, third, 1);
  return (upper ? high : low) + __shfl_xor_sync(kAll, upper ? low : high, 2);
}

// Sums of eight numbers over the warp's eight channels: the lane of channel i gets number i.
__device__ float SumOverChannels(const float (&values)[8]) {
  const bool upper = threadIdx.x & 16, middle = threadIdx.x & 8, lower = threadIdx.x & 4;
  float four[4], two[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    four[i] = (upper ? values[i + 4] : values[i]) +
              __shfl_xor_sync(kAll, upper ? values[i] : values[i + 4], 16);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    two[i] =
        (middle ? four[i + 2] : four[i]) + __shfl_xor_sync(kAll, middle ? four[i] : four[i + 2], 8);
  }
  return (lower ? two[1] : two[0]) + __shfl_xor_sync(kAll, lower ? two[0] : two[1], 4);
}

// What the backward pass stages of a token and channel.
struct alignas(16) Staged {
  float dt, dt_x, g, unused;  // g: gradient of y times the gate
};

template <typename Element, int kStates, bool kShared>
struct BackwardMemory {
  static constexpr int kTokens = kChunk<kStates>;
  StateTile<Element, kStates, kTokens, kShared> states;
  Staged staged[kTokens][kChannels];
  float sums[3][kTokens][kChannels];  // C . state, ds . B, the sum through the decay
  float of_b[kShared ? kTokens : 1][kWarps][kStates * kLanes];
  float of_c[kShared ? kTokens : 1][kWarps][kStates * kLanes];
  bool starts[kTokens];
};

// One thread's part of the backward pass over the tokens of a staged chunk.
template <typename Element, int kStates, bool kShared>
struct Backward {
  using Memory = BackwardMemory<Element, kStates, kShared>;
  static constexpr int kTokens = Memory::kTokens, kWidth = kStates * kLanes;

  const Place<Element, kStates, kShared>& place;
  const Gradients& gradients;
  Memory& memory;
  float carry[kStates] = {};  // decay_{t+1} ds_{t+1}
  float a_sum[kStates] = {};

  // From the state before a chunk, the states after each of its tokens.
  __device__ void Recompute(int first, const float (&before)[kStates],
                            float (&history)[kTokens][kStates]) const {
    float state[kStates];
#pragma unroll
    for (int i = 0; i < kStates; ++i) state[i] = before[i];
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      const Staged& staged = memory.staged[token][threadIdx.x / kLanes];
      const bool begins = memory.starts[token];
#pragma unroll
      for (int i = 0; i < kStates; i += kPack) {
        float b[kPack];
        memory.states.LoadB(place, first, token, i, b);
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          const float kept = begins ? 0.0f : state[i + j];
          state[i + j] = PowerOfTwo(staged.dt * place.a[i + j]) * kept + staged.dt_x * b[j];
          history[token][i + j] = state[i + j];
        }
      }
    }
  }

  // One token: `state` after it, `before` it.
  __device__ void Step(int first, int token, const float* state, const float* before) {
    const float4 staged = LoadFour(&memory.staged[token][threadIdx.x / kLanes].dt);
    const float dt = staged.x, dt_x = staged.y, g = staged.z;
    const bool begins = memory.starts[token];
    float plain = 0, input = 0, through_a = 0;
#pragma unroll
    for (int i = 0; i < kStates; i += kPack) {
      float b[kPack], c[kPack], products[2 * kPack];
      memory.states.LoadB(place, first, token, i, b);
      memory.states.LoadC(place, first, token, i, c);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        const float decay = begins ? 0.0f : PowerOfTwo(dt * place.a[i + j]);
        const float ds = c[j] * g + carry[i + j];
        carry[i + j] = ds * decay;
        const float through = carry[i + j] * before[i + j];
        plain += c[j] * state[i + j];
        input += ds * b[j];
        through_a += through * place.a[i + j];
        a_sum[i + j] += through * dt;
        products[j] = ds * dt_x;
        products[kPack + j] = g * state[i + j];
      }
      PutProducts(first, token, i, products);
    }
    const float sum = SumOverLanes(plain, input, through_a, place.lane);
    if (place.lane < 3) memory.sums[place.lane][token][threadIdx.x / kLanes] = sum;
  }

  // What this channel adds to the gradients of four numbers of B and of C.
  __device__ void PutProducts(int first, int token, int i, const float (&products)[2 * kPack]) {
    if constexpr (kShared) {
      const float sum = SumOverChannels(products);
      const int channel = threadIdx.x % 32 / kLanes,
                state = place.first_state + i + channel % kPack;
      (channel < kPack ? memory.of_b : memory.of_c)[token][place.warp][state] = sum;
    } else if (place.active && first + token < place.tokens) {
      const int64_t row = place.first_row + first + token;
      const int64_t to = (row * place.problem.channels + place.channel) * place.states;
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        const int state = place.first_state + i + j;
        if (state >= place.states) continue;
        gradients.b[to + state] = products[j];
        gradients.c[to + state] = products[kPack + j];
      }
    }
  }

  // The chunk's sums over units of channels.
  __device__ void PutUnits(int first) const {
    if (!kShared) return;
    const int unit_warps = gradients.unit / kWarpChannels, units = kWarps / unit_warps;
    const int all_units = static_cast<int>(place.problem.channels) / gradients.unit;
    const int count = min(kTokens, place.tokens - first);
    for (int item = threadIdx.x; item < count * units * kWidth; item += kThreads) {
      const int state = item % kWidth, unit = item / kWidth % units, token = item / kWidth / units;
      const int to_unit = blockIdx.x * units + unit;
      if (state >= place.states || to_unit >= all_units) continue;
      float b = 0, c = 0;
      for (int i = 0; i < unit_warps; ++i) {
        b += memory.of_b[token][unit * unit_warps + i][state];
        c += memory.of_c[token][unit * unit_warps + i][state];
      }
      const int64_t row = place.first_row + first + token;
      const int64_t to = (row * all_units + to_unit) * place.states + state;
      gradients.b[to] = b;
      if (gradients.whole_c.data == nullptr) {
        gradients.c[to] = c;
      } else {
        static_cast<Element*>(gradients.whole_c.data)[row * gradients.whole_c.stride +
                                                      to_unit * place.states + state] =
            FromFloat<Element>(c);
      }
    }
  }
};

template <typename Element, int kStates, bool kShared>
__global__ void __launch_bounds__(kThreads, kStates == 4 ? 3 : 1)
    BackwardKernel(SelectiveScan problem, Gradients gradients, const float* checkpoints,
                   int packs) {
  using Memory = BackwardMemory<Element, kStates, kShared>;
  constexpr int kTokens = Memory::kTokens;
  __shared__ __align__(16) Memory memory;
  __shared__ float totals[2][kThreads / kRowPacks][kChannels];
  const Place<Element, kStates, kShared> place(problem, packs);
  Backward<Element, kStates, kShared> pass{place, gradients, memory};
  // Each of the first kTokens * kRowPacks threads has one token's pack of channels to stage.
  const int own_token = threadIdx.x / kRowPacks, column = threadIdx.x % kRowPacks * kPack;
  const bool stages = own_token < kTokens, gated = problem.z.data != nullptr;
  float bias[kPack], skip[kPack], skip_sum[kPack] = {}, bias_sum[kPack] = {};
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const bool inside = column + i < place.channels;
    const int channel = place.first_channel + column + i;
    bias[i] = inside ? static_cast<const float*>(problem.dt_bias)[channel] : 0.0f;
    skip[i] = inside ? static_cast<const float*>(problem.skip)[channel] : 0.0f;
  }
  typename StateTile<Element, kStates, kTokens, kShared>::Fetched fetched;
  Pack<Element, kPack> next_x, next_delta, next_z, next_dy;
  float next_before[kStates] = {};
  const auto Fetch = [&](int chunk) {
    const int token = chunk * kTokens + own_token;
    memory.states.Fetch(place, chunk * kTokens, &fetched);
    if (place.active) {
      const float* from = checkpoints + place.CheckpointPlace(chunk);
#pragma unroll
      for (int i = 0; i < kStates; i += kPack) LoadFloats<kPack>(from + i, next_before + i);
    }
    if (!stages) return;
    next_x = place.FetchChannels(problem.x, token, column);
    next_delta = place.FetchChannels(problem.delta, token, column);
    next_z = place.FetchChannels(problem.z, token, column);
    next_dy = place.FetchChannels(gradients.y, token, column);
  };
  const int chunks = (place.tokens + kTokens - 1) / kTokens;
  Fetch(chunks - 1);
  for (int chunk = chunks - 1; chunk >= 0; --chunk) {
    const int first = chunk * kTokens;
    float x[kPack], delta[kPack], z[kPack], dy[kPack], before[kStates];
#pragma unroll
    for (int i = 0; i < kStates; ++i) before[i] = next_before[i];
    memory.states.Stage(fetched);
    if (stages) {
      Unpack<kPack>(next_x, x);
      Unpack<kPack>(next_delta, delta);
      Unpack<kPack>(next_z, z);
      Unpack<kPack>(next_dy, dy);
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        delta[i] += bias[i];
        const float dt = first + own_token < place.tokens ? TimeStepOf(delta[i]) : 0.0f;
        const float gate = gated ? z[i] * Sigmoid(z[i]) : 1.0f;
        memory.staged[own_token][column + i] = {dt, dt * x[i], dy[i] * gate, 0.0f};
      }
      if (column == 0) memory.starts[own_token] = place.Starts(first + own_token);
    }
    __syncthreads();
    if (chunk > 0) Fetch(chunk - 1);
    float history[kTokens][kStates];
    pass.Recompute(first, before, history);
#pragma unroll
    for (int token = kTokens - 1; token >= 0; --token) {
      pass.Step(first, token, history[token], token == 0 ? before : history[token - 1]);
    }
    __syncthreads();
    pass.PutUnits(first);
    if (stages) {
      float dx[kPack], ddelta[kPack], dz[kPack];
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        const float plain = memory.sums[0][own_token][column + i] + skip[i] * x[i];
        const float input = memory.sums[1][own_token][column + i];
        const float through = memory.sums[2][own_token][column + i] * (1.0f / kLog2E);
        const Staged& staged = memory.staged[own_token][column + i];
        dz[i] = gated ? dy[i] * plain * SiluOf(z[i]).slope : 0.0f;
        dx[i] = skip[i] * staged.g + staged.dt * input;
        ddelta[i] = (through + input * x[i]) * Sigmoid(delta[i]);
        if (first + own_token >= place.tokens) continue;
        skip_sum[i] += staged.g * x[i];
        bias_sum[i] += ddelta[i];
      }
      place.StoreChannels(gradients.x, first + own_token, column, dx);
      place.StoreChannels(gradients.delta, first + own_token, column, ddelta);
      if (gated) place.StoreChannels(gradients.z, first + own_token, column, dz);
    }
    __syncthreads();
  }
  // Parameters: A_log by state, D and dt_bias summed over the threads that staged a channel.
  float* to = gradients.parameters + blockIdx.y * problem.channels * (place.states + 2);
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    const int state = place.first_state + i;
    if (!place.active || state >= place.states) continue;
    to[int64_t{place.channel} * place.states + state] =
        pass.a_sum[i] * place.a[i] * (1.0f / kLog2E);
  }
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    totals[0][own_token][column + i] = skip_sum[i];
    totals[1][own_token][column + i] = bias_sum[i];
  }
  __syncthreads();
  if (threadIdx.x >= 2 * kChannels) return;
  const int which = threadIdx.x / kChannels, channel = threadIdx.x % kChannels;
  if (channel >= place.channels) return;
  float sum = 0;
  for (int i = 0; i < kThreads / kRowPacks; ++i) sum += totals[which][i][channel];
  to[problem.channels * (place.states + which) + place.first_channel + channel] = sum;
}

// output[row, group, n] = sum over the `count` units of a group of partials[row, unit, n].
template <typename Element>
__global__ void __launch_bounds__(256)
    SumUnitsKernel(const float* __restrict__ partials, int64_t rows, int groups, int count,
                   int states, OutputRows output) {
  const int columns = groups * states;
  const int64_t index = blockIdx.x * int64_t{256} + threadIdx.x, row = index / columns;
  if (row >= rows) return;
  const int column = static_cast<int>(index - row * columns);
  const float* from =
      partials + (row * groups + column / states) * count * states + column % states;
  float sum = 0;
  for (int unit = 0; unit < count; ++unit) sum += from[int64_t{unit} * states];
  static_cast<Element*>(output.data)[row * output.stride + column] = FromFloat<Element>(sum);
}

template <typename Element>
const char* SumUnits(const SelectiveScan& problem, const float* partials, int64_t groups,
                     const OutputRows& output, CUstream_st* stream) {
  const int64_t rows = problem.batch.rows(), units = problem.channels / UnitOf(problem);
  const int64_t items = rows * groups * problem.state_size;
  SumUnitsKernel<Element><<<static_cast<unsigned>((items + 255) / 256), 256, 0, stream>>>(
      partials, rows, static_cast<int>(groups), static_cast<int>(units / groups),
      static_cast<int>(problem.state_size), output);
  return LaunchError();
}

template <typename Element>
const char* Backwards(const SelectiveScan& problem, const SelectiveScanGradient& gradient,
                      const float* checkpoints, char* scratch, CUstream_st* stream) {
  const int64_t rows = problem.batch.rows(), channels = problem.channels, n = problem.state_size;
  Gradients gradients;
  gradients.y = gradient.y;
  gradients.x = gradient.x, gradients.delta = gradient.delta, gradients.z = gradient.z;
  gradients.unit = UnitOf(problem);
  const int64_t partial_bytes = RoundUp(rows * (channels / gradients.unit) * n * 4);
  gradients.b = reinterpret_cast<float*>(scratch);
  gradients.c = reinterpret_cast<float*>(scratch + partial_bytes);
  gradients.parameters = reinterpret_cast<float*>(scratch + 2 * partial_bytes);
  const bool whole = gradients.unit > 1 && channels / problem.groups == gradients.unit;
  if (whole) gradients.whole_c = gradient.c;
  const int packs = PacksOf<Element>(
      problem, {gradient.y, Rows(gradient.x), Rows(gradient.delta), Rows(gradient.z)});
  const char* wrong = WithShape(problem, [&](auto states, auto shared) {
    BackwardKernel<Element, states, shared>
        <<<GridOf(problem), kThreads, 0, stream>>>(problem, gradients, checkpoints, packs);
  });
  if (wrong == nullptr) {
    wrong = SumUnits<Element>(problem, gradients.b, problem.source_groups, gradient.b, stream);
  }
  if (wrong == nullptr && !whole) {
    wrong = SumUnits<Element>(problem, gradients.c, problem.groups, gradient.c, stream);
  }
  const struct {
    int64_t place, columns;
    void* sums;
  } parameters[] = {{0, channels * n, gradient.a_log},
                    {channels * n, channels, gradient.skip},
                    {channels * (n + 1), channels, gradient.dt_bias}};
  for (const auto& parameter : parameters) {
    if (wrong != nullptr) return wrong;
    wrong = SumColumns(gradients.parameters + parameter.place, problem.batch.sequences,
                       parameter.columns, channels * (n + 2), static_cast<float*>(parameter.sums),
                       stream);
  }
  return wrong;
}

}  // namespace

const char* SelectiveScanBackward(const SelectiveScan& problem,
                                  const SelectiveScanGradient& gradient, const void* checkpoints,
                                  void* scratch, CUstream_st* stream) {
  if (const char* wrong = CheckGradient(problem, gradient)) return wrong;
  if (const char* wrong = CheckSizes(problem)) return wrong;
  if (checkpoints == nullptr || scratch == nullptr) {
    return "selective scan: checkpoints or scratch absent";
  }
  if (problem.z.data != nullptr && gradient.z.data == nullptr) {
    return "selective scan: gradient of the gate absent";
  }
  const auto* states = static_cast<const float*>(checkpoints);
  return problem.batch.type == TrainingType::kBFloat16
             ? Backwards<__nv_bfloat16>(problem, gradient, states, static_cast<char*>(scratch),
                                        stream)
             : Backwards<float>(problem, gradient, states, static_cast<char*>(scratch), stream);
}

}  // namespace mambad::kernels::cuda
