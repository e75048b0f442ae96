// Mamba-1 selective scan, forward: token by token; keeps the state before every chunk of tokens for
// the backward pass.

#include "kernels/cuda/training/selective_scan_tiles.cuh"

namespace mambad::kernels::cuda {
namespace {

using namespace selective;  // NOLINT: this file is half of one family

constexpr int kForwardTokens = 16;  // of a tile

template <typename Element, int kStates, bool kShared>
__global__ void __launch_bounds__(kThreads)
    ForwardKernel(SelectiveScan problem, OutputRows y, float* checkpoints, int packs) {
  constexpr int kTokens = kForwardTokens;
  using Where = Place<Element, kStates, kShared>;
  using States = StateTile<Element, kStates, kTokens, kShared>;
  static_assert(kTokens * kRowPacks == kThreads, "one pack of channels a thread");
  __shared__ __align__(16) States states;
  __shared__ __align__(16) float2 steps[kTokens][kChannels];  // dt, dt x
  __shared__ __align__(16) float sums[kTokens][kChannels];
  __shared__ bool starts[kTokens];
  const Where place(problem, packs);
  const int own_token = threadIdx.x / kRowPacks, column = threadIdx.x % kRowPacks * kPack;
  float bias[kPack], skip[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    const bool inside = column + i < place.channels;
    const int channel = place.first_channel + column + i;
    bias[i] = inside ? static_cast<const float*>(problem.dt_bias)[channel] : 0.0f;
    skip[i] = inside ? static_cast<const float*>(problem.skip)[channel] : 0.0f;
  }
  typename States::Fetched fetched;
  Pack<Element, kPack> next_x, next_delta, next_z;
  const auto Fetch = [&](int first) {
    States::Fetch(place, first, &fetched);
    next_x = place.FetchChannels(problem.x, first + own_token, column);
    next_delta = place.FetchChannels(problem.delta, first + own_token, column);
    next_z = place.FetchChannels(problem.z, first + own_token, column);
  };
  float state[kStates] = {};
  Fetch(0);
  for (int first = 0; first < place.tokens; first += kTokens) {
    float x[kPack], z[kPack], delta[kPack];
    Unpack<kPack>(next_x, x);
    Unpack<kPack>(next_delta, delta);
    Unpack<kPack>(next_z, z);
    states.Stage(fetched);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float dt = TimeStepOf(delta[i] + bias[i]);
      steps[own_token][column + i] = make_float2(dt, dt * x[i]);
    }
    if (column == 0) starts[own_token] = place.Starts(first + own_token);
    __syncthreads();
    if (first + kTokens < place.tokens) Fetch(first + kTokens);
#pragma unroll 4
    for (int token = 0; token < kTokens; ++token) {
      if (token % kChunk<kStates> == 0 && checkpoints != nullptr && place.active &&
          first + token < place.tokens) {
        float* to = checkpoints + place.CheckpointPlace((first + token) / kChunk<kStates>);
#pragma unroll
        for (int i = 0; i < kStates; i += kPack) StoreFloats<kPack>(to + i, state + i);
      }
      const float2 step = steps[token][threadIdx.x / kLanes];
      const bool begins = starts[token];
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kStates; i += kPack) {
        float b[kPack], c[kPack];
        states.LoadB(place, first, token, i, b);
        states.LoadC(place, first, token, i, c);
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          const float before = begins ? 0.0f : state[i + j];
          state[i + j] = PowerOfTwo(step.x * place.a[i + j]) * before + step.y * b[j];
          sum += state[i + j] * c[j];
        }
      }
      sum += __shfl_xor_sync(kAll, sum, 1);
      sum += __shfl_xor_sync(kAll, sum, 2);
      if (place.lane == 0) sums[token][threadIdx.x / kLanes] = sum;
    }
    __syncthreads();
    float values[kPack];
    LoadFloats<kPack>(&sums[own_token][column], values);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      values[i] += skip[i] * x[i];
      if (problem.z.data != nullptr) values[i] *= z[i] * Sigmoid(z[i]);
    }
    place.StoreChannels(y, first + own_token, column, values);
  }
}

template <typename Element>
const char* Forward(const SelectiveScan& problem, const OutputRows& y, float* checkpoints,
                    CUstream_st* stream) {
  const int packs = PacksOf<Element>(problem, {Rows(y)});
  return WithShape(problem, [&](auto states, auto shared) {
    ForwardKernel<Element, states, shared>
        <<<GridOf(problem), kThreads, 0, stream>>>(problem, y, checkpoints, packs);
  });
}

}  // namespace

TrainingWorkspaceBytes WorkspaceBytes(const SelectiveScan& problem) {
  const int64_t states = StatesOfLane(problem), chunk = 64 / states;
  const int64_t chunks = (problem.batch.tokens + chunk - 1) / chunk;
  TrainingWorkspaceBytes bytes;
  bytes.checkpoints = problem.batch.sequences * chunks * problem.channels * states * kLanes * 4;
  bytes.backward_scratch =
      2 * RoundUp(problem.batch.rows() * (problem.channels / UnitOf(problem)) * problem.state_size *
                  4) +
      problem.batch.sequences * problem.channels * (problem.state_size + 2) * 4;
  return bytes;
}

const char* SelectiveScanForward(const SelectiveScan& problem, const OutputRows& y,
                                 void* checkpoints, void*, CUstream_st* stream) {
  if (const char* wrong = CheckProblem(problem)) return wrong;
  if (const char* wrong = CheckSizes(problem)) return wrong;
  if (y.data == nullptr || y.stride < problem.channels) {
    return "selective scan: output absent or stride too small";
  }
  auto* states = static_cast<float*>(checkpoints);
  return problem.batch.type == TrainingType::kBFloat16
             ? Forward<__nv_bfloat16>(problem, y, states, stream)
             : Forward<float>(problem, y, states, stream);
}

}  // namespace mambad::kernels::cuda
