#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/cpu/mixers.h"
#include "tests/kernels/mixer_simulation.h"

namespace mambad::kernels {
namespace {

struct MambaShape {
  const char* name;
  int inner, state, groups, source;
  int taps = 4;
  bool repeat_before = true;
  bool bias = true;
};

// The kernels of a Mamba-1 mixer between its products. A token's input: [x, z] (MambaInLlama: [x,
// z, B, C]), delta, and for the standard mixer B and C.
class MambaUnderTest : public MixerUnderTest {
 public:
  explicit MambaUnderTest(const MambaShape& shape) : shape_(shape) {
    std::mt19937 random(7);
    layer_.inner_width = shape.inner;
    layer_.state_size = shape.state;
    layer_.groups = shape.groups;
    layer_.source_width = shape.source;
    layer_.convolution_width = shape.taps;
    layer_.repeat_before_convolution = shape.repeat_before;
    convolution_ = RandomRow(random, layer_.convolution_channels() * shape.taps, 0.6f);
    convolution_bias_ = RandomRow(random, layer_.convolution_channels(), 0.2f);
    dt_bias_ = RandomRow(random, shape.inner, 1);
    skip_ = RandomRow(random, shape.inner, 1);
    for (float& bias : dt_bias_) bias -= 3;
    const int64_t padded = (shape.inner + 15) / 16 * 16;
    a_.resize(shape.inner * shape.state);
    blocked_a_.assign(padded * shape.state, 0);
    std::uniform_real_distribution<float> logarithm(-4, 2.7f);
    for (int c = 0; c < shape.inner; ++c) {
      for (int n = 0; n < shape.state; ++n) {
        const float value = -std::exp(logarithm(random));
        a_[c * shape.state + n] = value;
        blocked_a_[(c / 16 * shape.state + n) * 16 + c % 16] = value;
      }
    }
    layer_.convolution = convolution_.data();
    layer_.convolution_bias = shape.bias ? convolution_bias_.data() : nullptr;
    layer_.dt_bias = dt_bias_.data();
    layer_.a = blocked_a_.data();
    layer_.skip = skip_.data();
  }

  int64_t projected_width() const {
    return shape_.source > 0 ? 2 * shape_.source + 2 * shape_.inner : 2 * shape_.inner;
  }
  int64_t input_width() const override {
    return projected_width() + shape_.inner +
           (shape_.source > 0 ? 0 : 2 * shape_.groups * shape_.state);
  }
  int64_t output_width() const override { return shape_.inner; }
  RecurrentSlotLayout layout(int window_rows, bool keeps_working) const override {
    return MambaSlotLayout(layer_, window_rows, keeps_working);
  }
  int ring_channels() const override { return layer_.convolution_channels(); }
  int convolution_width() const override { return shape_.taps; }

  void Run(ThreadPool& pool, const Batch& batch, const RecurrentState& state, const KeyValueState&,
           float* inputs, int64_t input_stride, float* outputs,
           int64_t output_stride) const override {
    const auto columns = [&](int64_t begin, int64_t count) {
      return RowsView{inputs + begin, batch.rows, count, input_stride};
    };
    const int64_t inner = shape_.inner, source = shape_.source, p = projected_width(),
                  groups = inner_groups();
    const RowsView out{outputs, batch.rows, inner, output_stride};
    MambaConvolution(pool, batch, layer_, state, columns(0, p), out);
    const RowsView z = columns(source > 0 ? source : inner, inner);
    const RowsView b = source > 0 ? columns(source + inner, source) : columns(p + inner, groups);
    const RowsView c =
        source > 0 ? columns(2 * source + inner, inner) : columns(p + inner + groups, groups);
    MambaScan(pool, batch, layer_, state, out, columns(p, inner), b, c, z, out);
  }

  std::vector<std::vector<double>> Reference(const Rows& inputs) const override {
    const int inner = shape_.inner, size = shape_.state, source = shape_.source, taps = shape_.taps;
    const int repeats = source > 0 ? inner / source : 1;
    // Number i of a row of repeated groups stands at this place of the groups.
    const auto origin = [&](int i) { return i / size / repeats * size + i % size; };
    std::vector<std::vector<double>> state(inner, std::vector<double>(size)), result;
    for (size_t t = 0; t < inputs.size(); ++t) {
      std::vector<double> y(inner);
      for (int c = 0; c < inner; ++c) {
        const int channel = source > 0 && !shape_.repeat_before ? origin(c) : c;
        double x = shape_.bias ? convolution_bias_[channel] : 0;
        for (int j = 0; j < taps; ++j) {
          if (static_cast<int>(t) - taps + 1 + j < 0) continue;
          x += double{convolution_[channel * taps + j]} *
               inputs[t - taps + 1 + j][source > 0 ? origin(c) : c];
        }
        x = x / (1 + std::exp(-x));
        const Row& row = inputs[t];
        const double raw = double{row[projected_width() + c]} + dt_bias_[c];
        const double dt = raw > 20 ? raw : std::log1p(std::exp(raw));
        const int group = c / (inner / shape_.groups);
        for (int n = 0; n < size; ++n) {
          const double b = source > 0 ? row[source + inner + origin(group * size + n)]
                                      : row[projected_width() + inner + group * size + n];
          const double k = source > 0
                               ? row[2 * source + inner + group * size + n]
                               : row[projected_width() + inner + inner_groups() + group * size + n];
          double& s = state[c][n];
          s = std::exp(dt * a_[c * size + n]) * s + dt * b * x;
          y[c] += k * s;
        }
        const double z = row[(source > 0 ? source : inner) + c];
        y[c] = (y[c] + skip_[c] * x) * z / (1 + std::exp(-z));
      }
      result.push_back(y);
    }
    return result;
  }

 private:
  int64_t inner_groups() const { return int64_t{shape_.groups} * shape_.state; }

  MambaShape shape_;
  MambaLayer layer_;
  Row convolution_, convolution_bias_, dt_bias_, skip_, a_, blocked_a_;
};

class MambaMixer : public ::testing::TestWithParam<MambaShape> {
 protected:
  MambaUnderTest mixer_{GetParam()};
  MixerChecks checks_{mixer_};
};

TEST_P(MambaMixer, AgreesWithDoublePrecision) {
  checks_.OnEveryInstructionSet([&] {
    checks_.AgreesWithReference(1, 1);
    checks_.AgreesWithReference(2, 6);
    checks_.AgreesWithReference(3, 300);
  });
}
TEST_P(MambaMixer, Invariant1CommitEqualsDecodingOneByOne) {
  checks_.CommitEqualsOneByOne(4, false);
}
TEST_P(MambaMixer, Invariant1DraftWindowsEqualDecodingOneByOne) {
  checks_.CommitEqualsOneByOne(5, true);
}
TEST_P(MambaMixer, Invariant1DraftsMayFillTheWindow) {
  for (bool as_draft : {false, true}) checks_.DraftsMayFillTheWindow(9, as_draft);
}
TEST_P(MambaMixer, SlotsHoldWhatWindowsTake) {
  const MambaShape& shape = GetParam();
  const int64_t channels = (shape.inner + 15) / 16 * 16;
  const int64_t b = shape.source > 0 ? shape.source : int64_t{shape.groups} * shape.state;
  checks_.SlotsHoldWhatWindowsTake(channels * shape.state, 2 * shape.inner + b);
}
TEST_P(MambaMixer, Invariant3PromptChunksAndThreadsDoNotMatter) {
  checks_.ChunksDoNotMatter(6, {1, 2, 3, 4, 5, 16, 18, 19, 20, 37, 38, 39, 64, 65, 130});
}
TEST_P(MambaMixer, Invariant3OtherSequencesDoNotMatter) {
  checks_.OnEveryInstructionSet([&] { checks_.BatchDoesNotMatter(7, 5, false); });
}
TEST_P(MambaMixer, Invariant3OtherSequencesDoNotMatterToDrafts) {
  checks_.OnEveryInstructionSet([&] { checks_.BatchDoesNotMatter(8, 4, true); });
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, MambaMixer,
    ::testing::Values(MambaShape{"Standard", 64, 16, 1, 0},
                      MambaShape{"Narrow", 20, 5, 1, 0, 2, true, false},
                      MambaShape{"WideState", 32, 39, 1, 0, 3}, MambaShape{"Llama", 128, 16, 8, 32},
                      MambaShape{"LlamaRepeatAfter", 96, 16, 6, 32, 4, false},
                      MambaShape{"LlamaNarrowGroups", 48, 8, 6, 16, 4, false},
                      MambaShape{"LlamaOddGroups", 36, 6, 6, 12, 8, true, false},
                      MambaShape{"LlamaNoRepeat", 32, 16, 2, 32}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace mambad::kernels
