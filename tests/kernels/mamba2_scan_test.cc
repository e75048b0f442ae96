#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/cpu/mixers.h"
#include "tests/kernels/mixer_simulation.h"

namespace mambad::kernels {
namespace {

struct Mamba2Shape {
  const char* name;
  int inner, state, heads, groups, source;
  int taps = 4;
  bool repeat_before = false;
  bool bias = true;
  float dt_minimum = 0, dt_maximum = std::numeric_limits<float>::infinity();
};

// The kernels of a Mamba-2 mixer between its products. A token's input: [z, x, B, C, dt].
class Mamba2UnderTest : public MixerUnderTest {
 public:
  explicit Mamba2UnderTest(const Mamba2Shape& shape) : shape_(shape) {
    std::mt19937 random(7);
    layer_.inner_width = shape.inner;
    layer_.state_size = shape.state;
    layer_.heads = shape.heads;
    layer_.groups = shape.groups;
    layer_.source_width = shape.source;
    layer_.convolution_width = shape.taps;
    layer_.repeat_before_convolution = shape.repeat_before;
    layer_.dt_minimum = shape.dt_minimum;
    layer_.dt_maximum = shape.dt_maximum;
    convolution_ = RandomRow(random, layer_.convolution_channels() * shape.taps, 0.6f);
    convolution_bias_ = RandomRow(random, layer_.convolution_channels(), 0.2f);
    norm_ = RandomRow(random, shape.inner, 1);
    dt_bias_ = RandomRow(random, shape.heads, 1);
    skip_ = RandomRow(random, shape.heads, 1);
    for (float& bias : dt_bias_) bias -= 2;
    std::uniform_real_distribution<float> logarithm(-4, 2.7f);
    for (int head = 0; head < shape.heads; ++head) a_.push_back(-std::exp(logarithm(random)));
    layer_.convolution = convolution_.data();
    layer_.convolution_bias = shape.bias ? convolution_bias_.data() : nullptr;
    layer_.dt_bias = dt_bias_.data();
    layer_.a = a_.data();
    layer_.skip = skip_.data();
    layer_.gated_norm = {norm_.data(), 1e-5f};
  }

  int64_t groups_width() const { return int64_t{shape_.groups} * shape_.state; }
  int64_t source_x() const { return shape_.source > 0 ? shape_.source : shape_.inner; }
  int64_t source_b() const { return shape_.source > 0 ? shape_.source : groups_width(); }
  int64_t input_width() const override {
    return shape_.inner + source_x() + source_b() + groups_width() + shape_.heads;
  }
  int64_t output_width() const override { return shape_.inner; }
  RecurrentSlotLayout layout(int window_rows, bool keeps_working) const override {
    return Mamba2SlotLayout(layer_, window_rows, keeps_working);
  }
  int ring_channels() const override { return layer_.convolution_channels(); }
  int convolution_width() const override { return shape_.taps; }

  void Run(ThreadPool& pool, const Batch& batch, const RecurrentState& state, const KeyValueState&,
           float* inputs, int64_t input_stride, float* outputs,
           int64_t output_stride) const override {
    const int64_t channels = layer_.convolution_channels();
    Row convolved(batch.rows * channels + 16, kNaN);
    Mamba2Mix(pool, batch, layer_, state, {inputs, batch.rows, input_width(), input_stride},
              {convolved.data(), batch.rows, channels, channels},
              {outputs, batch.rows, shape_.inner, output_stride});
  }

  // Value of convolution channel c at row t: the convolution's own weights, its input taken from
  // column `column`.
  double Convolved(const Rows& inputs, int t, int channel, int64_t column) const {
    double x = shape_.bias ? convolution_bias_[channel] : 0;
    for (int j = 0; j < shape_.taps; ++j) {
      if (t - shape_.taps + 1 + j < 0) continue;
      x +=
          double{convolution_[channel * shape_.taps + j]} * inputs[t - shape_.taps + 1 + j][column];
    }
    return x / (1 + std::exp(-x));
  }

  std::vector<std::vector<double>> Reference(const Rows& inputs) const override {
    const int width = shape_.inner / shape_.heads, size = shape_.state;
    const int repeats = shape_.source > 0 ? shape_.inner / shape_.source : 1;
    const auto origin = [&](int i, int group) { return i / group / repeats * group + i % group; };
    const bool before = shape_.source > 0 && shape_.repeat_before;
    const int x_width = before ? shape_.inner : static_cast<int>(source_x());
    const int b_width = before ? static_cast<int>(groups_width()) : static_cast<int>(source_b());
    const int64_t x_column = shape_.inner, b_column = x_column + source_x(),
                  c_column = b_column + source_b();
    std::vector<std::vector<double>> state(shape_.inner, std::vector<double>(size)), result;
    for (int t = 0; t < static_cast<int>(inputs.size()); ++t) {
      const Row& row = inputs[t];
      std::vector<double> y(shape_.inner);
      for (int head = 0; head < shape_.heads; ++head) {
        const double raw = double{row[c_column + groups_width() + head]} + dt_bias_[head];
        double dt = raw > 20 ? raw : std::log1p(std::exp(raw));
        dt = std::min<double>(std::max<double>(dt, shape_.dt_minimum), shape_.dt_maximum);
        const double decay = std::exp(dt * a_[head]);
        const int group = head / (shape_.heads / shape_.groups);
        std::vector<double> b(size), c(size);
        for (int n = 0; n < size; ++n) {
          const int i = group * size + n, from = origin(i, size);
          b[n] = Convolved(inputs, t, x_width + (before ? i : from), b_column + from);
          c[n] = Convolved(inputs, t, x_width + b_width + i, c_column + i);
        }
        for (int p = 0; p < width; ++p) {
          const int i = head * width + p, from = origin(i, width);
          const double x = Convolved(inputs, t, before ? i : from, x_column + from);
          for (int n = 0; n < size; ++n) {
            state[i][n] = decay * state[i][n] + dt * x * b[n];
            y[i] += state[i][n] * c[n];
          }
          const double z = row[i];
          y[i] = (y[i] + skip_[head] * x) * z / (1 + std::exp(-z));
        }
      }
      const int group_width = shape_.inner / shape_.groups;
      for (int begin = 0; begin < shape_.inner; begin += group_width) {
        double squares = 0;
        for (int i = begin; i < begin + group_width; ++i) squares += y[i] * y[i];
        const double scale = 1 / std::sqrt(squares / group_width + 1e-5);
        for (int i = begin; i < begin + group_width; ++i) y[i] *= scale * norm_[i];
      }
      result.push_back(y);
    }
    return result;
  }

 private:
  Mamba2Shape shape_;
  Mamba2Layer layer_;
  Row convolution_, convolution_bias_, dt_bias_, skip_, a_, norm_;
};

class Mamba2Mixer : public ::testing::TestWithParam<Mamba2Shape> {
 protected:
  Mamba2UnderTest mixer_{GetParam()};
  MixerChecks checks_{mixer_};
};

TEST_P(Mamba2Mixer, AgreesWithDoublePrecision) {
  checks_.OnEveryInstructionSet([&] {
    checks_.AgreesWithReference(1, 1);
    checks_.AgreesWithReference(2, 6);
    checks_.AgreesWithReference(3, 150);
  });
}
TEST_P(Mamba2Mixer, Invariant1CommitEqualsDecodingOneByOne) {
  checks_.CommitEqualsOneByOne(4, false);
}
TEST_P(Mamba2Mixer, Invariant1DraftWindowsEqualDecodingOneByOne) {
  checks_.CommitEqualsOneByOne(5, true);
}
TEST_P(Mamba2Mixer, Invariant1DraftsMayFillTheWindow) {
  for (bool as_draft : {false, true}) checks_.DraftsMayFillTheWindow(9, as_draft);
}
TEST_P(Mamba2Mixer, SlotsHoldWhatWindowsTake) {
  const Mamba2Shape& shape = GetParam();
  const bool early = shape.source > 0 && shape.repeat_before;
  const int64_t x = early ? shape.inner : mixer_.source_x();
  const int64_t b = early ? mixer_.groups_width() : mixer_.source_b();
  checks_.SlotsHoldWhatWindowsTake(int64_t{shape.inner} * shape.state, x + b + shape.heads,
                                   /*waiting_rows=*/4);
}
TEST_P(Mamba2Mixer, Invariant3PromptChunksAndThreadsDoNotMatter) {
  checks_.ChunksDoNotMatter(6, {1, 2, 3, 4, 5, 16, 18, 19, 20, 37, 38, 39, 64, 65, 130});
}
TEST_P(Mamba2Mixer, Invariant3OtherSequencesDoNotMatter) {
  checks_.OnEveryInstructionSet([&] { checks_.BatchDoesNotMatter(7, 5, false); });
}
TEST_P(Mamba2Mixer, Invariant3OtherSequencesDoNotMatterToDrafts) {
  checks_.OnEveryInstructionSet([&] { checks_.BatchDoesNotMatter(8, 4, true); });
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Mamba2Mixer,
    ::testing::Values(Mamba2Shape{"Standard", 128, 32, 2, 1, 0},
                      Mamba2Shape{"Groups", 128, 16, 8, 2, 0},
                      Mamba2Shape{"DtLimits", 64, 16, 4, 1, 0, 4, false, true, 0.05f, 0.2f},
                      Mamba2Shape{"WideHeads", 192, 10, 2, 1, 0, 3},
                      Mamba2Shape{"OddHeads", 44, 7, 4, 2, 0, 2, false, false},
                      Mamba2Shape{"Llama", 128, 32, 4, 4, 64},
                      Mamba2Shape{"LlamaRepeatBefore", 96, 16, 6, 6, 32, 4, true},
                      Mamba2Shape{"LlamaSmallHeads", 48, 8, 6, 6, 16, 4, true}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace mambad::kernels
