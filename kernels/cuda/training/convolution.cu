// Causal depthwise convolution with SiLU, forward and backward. A thread walks down a stretch of
// tokens with a few channels; the last inputs and the weights stay in registers.

#include "kernels/cuda/training/column_sum.h"
#include "kernels/cuda/training/element_access.cuh"
#include "kernels/cuda/training/scan.h"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 64;
constexpr int kForwardTokens = 32, kBackwardTokens = 64;  // of a stretch
constexpr int kAhead = 4;                                 // tokens loaded at once

// kAhead tokens of some rows from `token` on; those from `end` on repeat the last.
template <int kPack, typename Element>
__device__ void LoadAhead(const Element* rows, int stride, int token, int end,
                          Pack<Element, kPack> (&packs)[kAhead]) {
  const Element* from = rows + int64_t{token} * stride;
#pragma unroll
  for (int k = 0; k < kAhead; ++k)
    packs[k] = LoadPack<kPack>(from + min(k, end - 1 - token) * stride);
}

// Problems with fewer taps have zeros in front of their weights.
template <typename Element, int kTaps, int kPack>
struct Walk {
  const CausalConvolution& problem;
  const Element* input;  // the sequence's first token, this channel
  const uint8_t* document_start;
  int64_t first_row;  // of the sequence
  int stride, tokens, channel;
  int age = 0;  // tokens of the document before the next one, up to kTaps - 1
  float weight[kTaps][kPack] = {};
  float bias[kPack] = {};
  float window[kTaps][kPack] = {};  // inputs of the last kTaps tokens, the newest last

  __device__ Walk(const CausalConvolution& the_problem, int64_t sequence, int the_channel)
      : problem(the_problem),
        first_row(sequence * the_problem.batch.tokens),
        stride(static_cast<int>(the_problem.input.stride)),
        tokens(static_cast<int>(the_problem.batch.tokens)),
        channel(the_channel) {
    input = static_cast<const Element*>(problem.input.data) + first_row * stride + channel;
    document_start = problem.batch.document_start;
    if (document_start != nullptr) document_start += first_row;
    const auto* weights = static_cast<const float*>(problem.weight);
    const auto* biases = static_cast<const float*>(problem.bias);
    const int taps = static_cast<int>(problem.taps);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if (biases != nullptr) bias[i] = biases[channel + i];
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        const int tap = j - (kTaps - taps);
        if (tap >= 0) weight[j][i] = weights[int64_t{channel + i} * taps + tap];
      }
    }
  }

  __device__ bool Starts(int token) const {
    return token == 0 || (document_start != nullptr && document_start[token] != 0);
  }

  // Bit k: a document starts at token + k, for the next kAhead tokens before `end`.
  __device__ unsigned StartsAhead(int token, int end) const {
    unsigned bits = token == 0 ? 1 : 0;
    if (document_start == nullptr) return bits;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (document_start[min(token + k, end - 1)] != 0) bits |= 1u << k;
    }
    return bits;
  }

  // Fills the window with what comes before `token`.
  __device__ void Enter(int token) {
#pragma unroll
    for (int j = kTaps - 1; j > 0; --j) {
      if (token - j >= 0) {
        Push(Starts(token - j), LoadPack<kPack>(input + int64_t{token - j} * stride));
      }
    }
  }

  __device__ void Push(bool starts, const Pack<Element, kPack>& newest) {
#pragma unroll
    for (int j = 0; j + 1 < kTaps; ++j) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) window[j][i] = window[j + 1][i];
    }
    Unpack<kPack>(newest, window[kTaps - 1]);
    age = min(age + 1, kTaps - 1);
    if (!starts) return;
    age = 0;
#pragma unroll
    for (int j = 0; j + 1 < kTaps; ++j) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) window[j][i] = 0;
    }
  }

  __device__ float Convolved(int i) const {
    float sum = bias[i];
#pragma unroll
    for (int j = 0; j < kTaps; ++j) sum += weight[j][i] * window[j][i];
    return sum;
  }
};

template <typename Element, int kTaps, int kPack>
__global__ void __launch_bounds__(kThreads)
    ForwardKernel(CausalConvolution problem, OutputRows output) {
  const int channel = (blockIdx.x * kThreads + threadIdx.x) * kPack;
  if (channel >= problem.channels) return;
  Walk<Element, kTaps, kPack> walk(problem, blockIdx.z, channel);
  const int begin = blockIdx.y * kForwardTokens;
  const int end = min(begin + kForwardTokens, walk.tokens);
  const int out_stride = static_cast<int>(output.stride);
  Element* out = static_cast<Element*>(output.data) + walk.first_row * out_stride + channel;
  walk.Enter(begin);
  for (int token = begin; token < end; token += kAhead) {
    Pack<Element, kPack> inputs[kAhead];
    LoadAhead<kPack>(walk.input, walk.stride, token, end, inputs);
    const unsigned starts = walk.StartsAhead(token, end);
    Element* to = out + int64_t{token} * out_stride;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (token + k >= end) break;
      walk.Push(starts >> k & 1, inputs[k]);
      float values[kPack];
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        values[i] = walk.Convolved(i);
        values[i] *= Sigmoid(values[i]);
      }
      StoreFloats<kPack>(to + k * out_stride, values);
    }
  }
}

// The gradient of token t's input is complete when token t + kTaps - 1 has been seen. A stretch
// writes its own tokens' and adds only its own tokens to the parameters' gradients.
template <typename Element, int kTaps, int kPack>
__global__ void __launch_bounds__(kThreads)
    BackwardKernel(CausalConvolution problem, InputRows output_gradient, OutputRows input_gradient,
                   float* partials) {
  const int channel = (blockIdx.x * kThreads + threadIdx.x) * kPack;
  if (channel >= problem.channels) return;
  Walk<Element, kTaps, kPack> walk(problem, blockIdx.z, channel);
  const int begin = blockIdx.y * kBackwardTokens;
  const int own_end = min(begin + kBackwardTokens, walk.tokens);
  const int end = min(begin + kBackwardTokens + kTaps - 1, walk.tokens);
  const int from_stride = static_cast<int>(output_gradient.stride);
  const int to_stride = static_cast<int>(input_gradient.stride);
  const Element* from =
      static_cast<const Element*>(output_gradient.data) + walk.first_row * from_stride + channel;
  Element* to = static_cast<Element*>(input_gradient.data) + walk.first_row * to_stride + channel;
  float pending[kTaps][kPack] = {};  // gradients of the window's inputs
  float weight_sum[kTaps][kPack] = {}, bias_sum[kPack] = {};
  walk.Enter(begin);
  // One token: takes its output's gradient and hands over the oldest input's.
  const auto Advance = [&](int token, bool starts, const Pack<Element, kPack>& input,
                           const float* gradient) {
    walk.Push(starts, input);
    const float own = token < own_end ? 1.0f : 0.0f;
    float changes[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      changes[i] = gradient[i] * SiluOf(walk.Convolved(i)).slope;
      const float owned = own * changes[i];
      bias_sum[i] += owned;
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        weight_sum[j][i] += owned * walk.window[j][i];
        pending[j][i] = j + 1 < kTaps ? pending[j + 1][i] : 0.0f;
      }
    }
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      if (kTaps - 1 - j > walk.age) continue;  // older than the document: the weight met a zero
#pragma unroll
      for (int i = 0; i < kPack; ++i) pending[j][i] += walk.weight[j][i] * changes[i];
    }
    const int done = token - (kTaps - 1);
    if (done >= begin) {
      StoreFloats<kPack>(to + int64_t{done} * to_stride, pending[0]);
    }
  };
  for (int token = begin; token < end; token += kAhead) {
    Pack<Element, kPack> inputs[kAhead], gradients[kAhead];
    LoadAhead<kPack>(walk.input, walk.stride, token, end, inputs);
    LoadAhead<kPack>(from, from_stride, token, end, gradients);
    const unsigned starts = walk.StartsAhead(token, end);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (token + k >= end) break;
      float gradient[kPack];
      Unpack<kPack>(gradients[k], gradient);
      Advance(token + k, starts >> k & 1, inputs[k], gradient);
    }
  }
  // At the end of the sequence nothing follows that could still change the last inputs.
#pragma unroll
  for (int j = 1; j < kTaps; ++j) {
    const int token = walk.tokens - kTaps + j;
    if (end == walk.tokens && token >= begin && token < own_end) {
      StoreFloats<kPack>(to + int64_t{token} * to_stride, pending[j]);
    }
  }
  const int taps = static_cast<int>(problem.taps);
  float* sums =
      partials + (blockIdx.z * int64_t{gridDim.y} + blockIdx.y) * problem.channels * (taps + 1);
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      const int tap = j - (kTaps - taps);
      if (tap >= 0) sums[(channel + i) * taps + tap] = weight_sum[j][i];
    }
    sums[problem.channels * taps + channel + i] = bias_sum[i];
  }
}

int64_t Stretches(const TrainingBatch& batch, int tokens) {
  return (batch.tokens + tokens - 1) / tokens;
}

template <int kPack>
dim3 Grid(const CausalConvolution& problem, int tokens) {
  const int64_t packs = (problem.channels + kPack - 1) / kPack;
  return dim3(static_cast<unsigned>((packs + kThreads - 1) / kThreads),
              static_cast<unsigned>(Stretches(problem.batch, tokens)),
              static_cast<unsigned>(problem.batch.sequences));
}

const char* CheckSizes(const CausalConvolution& problem) {
  if (problem.batch.type == TrainingType::kFloat64) return "convolution: no float64 on the GPU";
  if (problem.batch.sequences > 65535 || problem.batch.tokens > (1 << 20) ||
      problem.channels > (1 << 24)) {
    return "convolution: more than 65535 sequences, 2^20 tokens or 2^24 channels";
  }
  if (problem.input.stride > (1 << 28)) return "convolution: stride above 2^28";
  return nullptr;
}

// kPack 4 stands for packs of four, or of eight where only inputs and outputs stay in registers.
template <typename Element, int kTaps, int kPack>
void Launch(const CausalConvolution& problem, const OutputRows& output, CUstream_st* stream) {
  if (kPack == 4 && CanPack<Element, 8>(problem.input.data, problem.input.stride) &&
      CanPack<Element, 8>(output.data, output.stride) && problem.channels % 8 == 0) {
    ForwardKernel<Element, kTaps, 8>
        <<<Grid<8>(problem, kForwardTokens), kThreads, 0, stream>>>(problem, output);
    return;
  }
  ForwardKernel<Element, kTaps, kPack>
      <<<Grid<kPack>(problem, kForwardTokens), kThreads, 0, stream>>>(problem, output);
}

template <typename Element, int kTaps, int kPack>
void Launch(const CausalConvolution& problem, const CausalConvolutionGradient& gradient,
            float* partials, CUstream_st* stream) {
  BackwardKernel<Element, kTaps, kPack>
      <<<Grid<kPack>(problem, kBackwardTokens), kThreads, 0, stream>>>(problem, gradient.output,
                                                                       gradient.input, partials);
}

template <typename Element, typename... Rest>
const char* LaunchOfShape(bool packed, const CausalConvolution& problem, Rest... rest) {
  if (problem.taps <= 4 && packed)
    Launch<Element, 4, 4>(problem, rest...);
  else if (problem.taps <= 4)
    Launch<Element, 4, 1>(problem, rest...);
  else
    Launch<Element, kMaxTrainingTaps, 1>(problem, rest...);
  return LaunchError();
}

}  // namespace

TrainingWorkspaceBytes WorkspaceBytes(const CausalConvolution& problem) {
  TrainingWorkspaceBytes bytes;
  bytes.backward_scratch = Stretches(problem.batch, kBackwardTokens) * problem.batch.sequences *
                           problem.channels * (problem.taps + 1) * sizeof(float);
  return bytes;
}

const char* CausalConvolutionForward(const CausalConvolution& problem, const OutputRows& output,
                                     CUstream_st* stream) {
  if (const char* wrong = CheckProblem(problem)) return wrong;
  if (const char* wrong = CheckSizes(problem)) return wrong;
  if (output.data == nullptr || output.stride < problem.channels) {
    return "convolution: output absent or stride too small";
  }
  const int64_t strides = problem.channels | problem.input.stride | output.stride;
  if (problem.batch.type == TrainingType::kFloat32) {
    const bool packed =
        CanPack<float, 4>(problem.input.data, strides) && CanPack<float, 4>(output.data, strides);
    return LaunchOfShape<float>(packed, problem, output, stream);
  }
  const bool packed = CanPack<__nv_bfloat16, 4>(problem.input.data, strides) &&
                      CanPack<__nv_bfloat16, 4>(output.data, strides);
  return LaunchOfShape<__nv_bfloat16>(packed, problem, output, stream);
}

const char* CausalConvolutionBackward(const CausalConvolution& problem,
                                      const CausalConvolutionGradient& gradient, void* scratch,
                                      CUstream_st* stream) {
  if (const char* wrong = CheckGradient(problem, gradient)) return wrong;
  if (const char* wrong = CheckSizes(problem)) return wrong;
  if (scratch == nullptr) return "convolution: scratch absent";
  auto* partials = static_cast<float*>(scratch);
  const int64_t strides =
      problem.channels | problem.input.stride | gradient.output.stride | gradient.input.stride;
  const char* wrong;
  if (problem.batch.type == TrainingType::kFloat32) {
    const bool packed = CanPack<float, 4>(problem.input.data, strides) &&
                        CanPack<float, 4>(gradient.output.data, strides) &&
                        CanPack<float, 4>(gradient.input.data, strides);
    wrong = LaunchOfShape<float>(packed, problem, gradient, partials, stream);
  } else {
    const bool packed = CanPack<__nv_bfloat16, 4>(problem.input.data, strides) &&
                        CanPack<__nv_bfloat16, 4>(gradient.output.data, strides) &&
                        CanPack<__nv_bfloat16, 4>(gradient.input.data, strides);
    wrong = LaunchOfShape<__nv_bfloat16>(packed, problem, gradient, partials, stream);
  }
  if (wrong != nullptr) return wrong;
  const int64_t rows = Stretches(problem.batch, kBackwardTokens) * problem.batch.sequences;
  const int64_t weights = problem.channels * problem.taps, columns = weights + problem.channels;
  wrong =
      SumColumns(partials, rows, weights, columns, static_cast<float*>(gradient.weight), stream);
  if (wrong != nullptr || gradient.bias == nullptr) return wrong;
  return SumColumns(partials + weights, rows, problem.channels, columns,
                    static_cast<float*>(gradient.bias), stream);
}

}  // namespace mambad::kernels::cuda
