#include <algorithm>

#include "kernels/cpu/training/layout.h"
#include "kernels/cpu/training/scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/training/convolution.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/training/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace {
using cpu::RowOf;

constexpr int kBlock = 64;  // channels of one piece of work: whole lines of memory
constexpr int kMostTaps = static_cast<int>(kMaxTrainingTaps);

// The weights of a block, tap by tap. Lanes beyond the block's channels are zero.
template <typename T>
struct ConvolutionBlock {
  int64_t channel = 0;
  int count = 0, lanes = 0;  // channels; the same, to whole vectors
  HWY_ALIGN T weight[kMostTaps][kBlock] = {};
  HWY_ALIGN T bias[kBlock] = {};
};

template <typename T>
ConvolutionBlock<T> PrepareBlock(const CausalConvolution& problem, int64_t index) {
  ConvolutionBlock<T> block;
  block.channel = index * kBlock;
  block.count = static_cast<int>(std::min<int64_t>(kBlock, problem.channels - block.channel));
  block.lanes = static_cast<int>(cpu::CeilDivide(block.count, kLanesOf<T>)) * kLanesOf<T>;
  const T* weight = static_cast<const T*>(problem.weight) + block.channel * problem.taps;
  for (int i = 0; i < block.count; ++i) {
    for (int j = 0; j < problem.taps; ++j) block.weight[j][i] = weight[i * problem.taps + j];
  }
  if (problem.bias != nullptr) {
    std::copy_n(static_cast<const T*>(problem.bias) + block.channel, block.count, block.bias);
  }
  return block;
}

// A circle of the newest rows of a block.
template <typename T>
struct RowCircle {
  HWY_ALIGN T rows[kMostTaps][kBlock] = {};
  int taps = 1;

  T* at(int64_t token) { return rows[token % kMostTaps]; }
  const T* at(int64_t token) const { return rows[token % kMostTaps]; }
};

// bias + the weighted sum over the `seen` newest of a token's taps.
template <typename T>
HWY_INLINE Vector<T> WeightedSum(const ConvolutionBlock<T>& block, const RowCircle<T>& inputs,
                                 int64_t token, int seen, int lane) {
  const Lanes<T> d;
  auto sum = hn::Load(d, block.bias + lane);
  for (int j = inputs.taps - seen; j < inputs.taps; ++j) {
    sum = hn::MulAdd(hn::Load(d, block.weight[j] + lane),
                     hn::Load(d, inputs.at(token - inputs.taps + 1 + j) + lane), sum);
  }
  return sum;
}

template <typename T>
void SequenceForward(const CausalConvolution& problem, const ConvolutionBlock<T>& block,
                     int64_t sequence, const OutputRows& output) {
  const Lanes<T> d;
  RowCircle<T> inputs;
  inputs.taps = static_cast<int>(problem.taps);
  HWY_ALIGN T result[kBlock];
  int seen = 0;
  for (int64_t t = 0; t < problem.batch.tokens; ++t) {
    const int64_t row = sequence * problem.batch.tokens + t;
    seen = cpu::BeginsDocument(problem.batch, sequence, t) ? 1 : std::min(seen + 1, inputs.taps);
    CopyNumbers(RowOf<T>(problem.input, row) + block.channel, block.count, inputs.at(t));
    for (int lane = 0; lane < block.lanes; lane += kLanesOf<T>) {
      const auto sum = WeightedSum(block, inputs, t, seen, lane);
      hn::Store(hn::Mul(sum, Sigmoid(sum)), d, result + lane);
    }
    CopyNumbers(result, block.count, RowOf<T>(output, row) + block.channel);
  }
}

template <typename T>
void ConvolutionForward(const CausalConvolution& problem, const OutputRows& output,
                        ThreadPool& pool) {
  const int64_t blocks = cpu::CeilDivide(problem.channels, kBlock);
  pool.Split(blocks * problem.batch.sequences, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const auto block = PrepareBlock<T>(problem, item % blocks);
      SequenceForward(problem, block, item / blocks, output);
    }
  });
}

// Sums over rows, from sequence to sequence.
template <typename T>
struct ConvolutionSums {
  HWY_ALIGN T weight[kMostTaps][kBlock] = {};
  HWY_ALIGN T bias[kBlock] = {};
};

// d loss / d pre of a token, and its share of the sums over rows.
template <typename T>
void TokenBackward(const ConvolutionBlock<T>& block, const RowCircle<T>& inputs, int64_t token,
                   int seen, const T* given, T* pre_gradient, ConvolutionSums<T>& sums) {
  const Lanes<T> d;
  HWY_ALIGN T staged[kBlock];
  CopyNumbers(given, block.count, staged);
  std::fill(staged + block.count, staged + block.lanes, T{0});
  for (int lane = 0; lane < block.lanes; lane += kLanesOf<T>) {
    const auto pre = WeightedSum(block, inputs, token, seen, lane);
    const auto gradient = hn::Mul(hn::Load(d, staged + lane), SiluSlope<T>(pre, Sigmoid(pre)));
    hn::Store(gradient, d, pre_gradient + lane);
    hn::Store(hn::Add(gradient, hn::Load(d, sums.bias + lane)), d, sums.bias + lane);
    for (int j = inputs.taps - seen; j < inputs.taps; ++j) {
      const T* input = inputs.at(token - inputs.taps + 1 + j) + lane;
      hn::Store(hn::MulAdd(gradient, hn::Load(d, input), hn::Load(d, sums.weight[j] + lane)), d,
                sums.weight[j] + lane);
    }
  }
}

// d loss / d input of a token from the taps that see it: its own and those of the tokens up to
// `last`.
template <typename T>
void InputBackward(const ConvolutionBlock<T>& block, const RowCircle<T>& pre_gradients,
                   int64_t token, int64_t last, T* out) {
  const Lanes<T> d;
  HWY_ALIGN T result[kBlock];
  for (int lane = 0; lane < block.lanes; lane += kLanesOf<T>) {
    auto sum = hn::Zero(d);
    for (int64_t t = token; t <= last; ++t) {
      sum = hn::MulAdd(hn::Load(d, block.weight[pre_gradients.taps - 1 - (t - token)] + lane),
                       hn::Load(d, pre_gradients.at(t) + lane), sum);
    }
    hn::Store(sum, d, result + lane);
  }
  CopyNumbers(result, block.count, out);
}

// Forwards through the tokens; the gradient of an input is complete taps - 1 tokens later, or where
// its document ends.
template <typename T>
void SequenceBackward(const CausalConvolution& problem, const CausalConvolutionGradient& gradient,
                      const ConvolutionBlock<T>& block, int64_t sequence,
                      ConvolutionSums<T>& sums) {
  const int taps = static_cast<int>(problem.taps);
  const int64_t tokens = problem.batch.tokens;
  RowCircle<T> inputs, pre_gradients;
  inputs.taps = pre_gradients.taps = taps;
  int seen = 0;
  int64_t pending = 0;  // the first token whose input gradient is not written
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t row = sequence * tokens + t;
    const bool start = cpu::BeginsDocument(problem.batch, sequence, t);
    seen = start ? 1 : std::min(seen + 1, taps);
    CopyNumbers(RowOf<T>(problem.input, row) + block.channel, block.count, inputs.at(t));
    TokenBackward(block, inputs, t, seen, RowOf<T>(gradient.output, row) + block.channel,
                  pre_gradients.at(t), sums);
    const bool ends = t + 1 == tokens || cpu::BeginsDocument(problem.batch, sequence, t + 1);
    for (; pending <= (ends ? t : t - taps + 1); ++pending) {
      InputBackward(block, pre_gradients, pending, std::min<int64_t>(t, pending + taps - 1),
                    RowOf<T>(gradient.input, sequence * tokens + pending) + block.channel);
    }
  }
}

template <typename T>
void ConvolutionBackward(const CausalConvolution& problem,
                         const CausalConvolutionGradient& gradient, ThreadPool& pool) {
  pool.Split(cpu::CeilDivide(problem.channels, kBlock), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const auto block = PrepareBlock<T>(problem, item);
      ConvolutionSums<T> sums;
      for (int64_t sequence = 0; sequence < problem.batch.sequences; ++sequence) {
        SequenceBackward(problem, gradient, block, sequence, sums);
      }
      T* weight = static_cast<T*>(gradient.weight) + block.channel * problem.taps;
      for (int i = 0; i < block.count; ++i) {
        for (int j = 0; j < problem.taps; ++j) weight[i * problem.taps + j] = sums.weight[j][i];
      }
      if (gradient.bias == nullptr) continue;
      std::copy_n(sums.bias, block.count, static_cast<T*>(gradient.bias) + block.channel);
    }
  });
}

}  // namespace

// What Highway dispatches to; names of this file alone.
void RunConvolutionForward(const CausalConvolution& problem, const OutputRows& output,
                           ThreadPool& pool) {
  const auto run = problem.batch.type == TrainingType::kFloat64 ? ConvolutionForward<double>
                                                                : ConvolutionForward<float>;
  run(problem, output, pool);
}
void RunConvolutionBackward(const CausalConvolution& problem,
                            const CausalConvolutionGradient& gradient, ThreadPool& pool) {
  const auto run = problem.batch.type == TrainingType::kFloat64 ? ConvolutionBackward<double>
                                                                : ConvolutionBackward<float>;
  run(problem, gradient, pool);
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(RunConvolutionForward);
HWY_EXPORT(RunConvolutionBackward);

namespace cpu {

const char* CausalConvolutionForward(const CausalConvolution& problem, const OutputRows& output,
                                     ThreadPool& pool) {
  if (const char* wrong = CheckProblem(problem)) return wrong;
  if (output.data == nullptr || output.stride < problem.channels) {
    return "convolution: output absent or stride too small";
  }
  if (!HasType(problem.batch)) return "convolution: the CPU has float and double only";
  HWY_DYNAMIC_DISPATCH(RunConvolutionForward)(problem, output, pool);
  return nullptr;
}

const char* CausalConvolutionBackward(const CausalConvolution& problem,
                                      const CausalConvolutionGradient& gradient, ThreadPool& pool) {
  if (const char* wrong = CheckGradient(problem, gradient)) return wrong;
  if (!HasType(problem.batch)) return "convolution: the CPU has float and double only";
  HWY_DYNAMIC_DISPATCH(RunConvolutionBackward)(problem, gradient, pool);
  return nullptr;
}

}  // namespace cpu
}  // namespace mambad::kernels
#endif  // HWY_ONCE
