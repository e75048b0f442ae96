// Backend::Mamba: its formula, verify-and-commit, exactness.

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend/mixer_checks.h"
#include "tests/kernels/backend/tested_backend.h"

namespace mambad::kernels {
namespace {

struct MambaShape {
  const char* name;
  int inner, state, groups, source;
  int taps = 4;
  bool repeat_before = true;
  bool biases = true;
  bool selection_norm = false;
  ElementType weights = ElementType::kFloat32;
};

class MambaUnderTest : public MixerUnderTest {
 public:
  static constexpr int kWidth = 40, kRank = 5;

  MambaUnderTest(Backend& backend, const MambaShape& shape)
      : MixerUnderTest(backend, shape.weights), shape_(shape) {
    std::mt19937 random(7);
    layer_.inner_width = shape.inner;
    layer_.state_size = shape.state;
    layer_.dt_rank = kRank;
    layer_.groups = shape.groups;
    layer_.source_width = shape.source;
    layer_.convolution_width = shape.taps;
    layer_.repeat_before_convolution = shape.repeat_before;
    layer_.selection_norm = shape.selection_norm;
    layer_.selection_norm_epsilon = 1e-6f;
    norm_ = RandomRow(random, kWidth);
    in_bias_ = RandomRow(random, projected_width(), 0.3f);
    out_bias_ = RandomRow(random, kWidth, 0.3f);
    convolution_ = RandomRow(random, layer_.convolution_channels() * shape.taps, 0.6f);
    convolution_bias_ = RandomRow(random, layer_.convolution_channels(), 0.2f);
    dt_bias_ = RandomRow(random, shape.inner);
    skip_ = RandomRow(random, shape.inner, 0.3f);
    for (float& bias : dt_bias_) bias -= 2;
    DrawDecay(random);
    in_ = &Matrix(random, projected_width(), kWidth);
    if (standard()) select_ = &Matrix(random, kRank + 2 * shape.state, shape.inner, 4);
    dt_ = &Matrix(random, shape.inner, kRank);
    out_ = &Matrix(random, kWidth, shape.inner, 2);
    FillLayer();
  }

  int64_t width() const override { return kWidth; }
  WorkspaceShape workspace() const override {
    WorkspaceShape shape;
    shape.max_projection = projected_width();
    shape.max_inner = layer_.convolution_channels() + shape_.inner;
    shape.max_selection = kRank + 2 * shape_.state;
    return shape;
  }
  RecurrentSlotLayout layout(int window_rows, bool keeps_working) const override {
    return backend().SlotLayout(layer_, window_rows, keeps_working);
  }
  int ring_channels() const override { return layer_.convolution_channels(); }
  int convolution_width() const override { return shape_.taps; }
  void Run(const Batch& batch, const RecurrentState& state, const KeyValueState&,
           Workspace& workspace) const override {
    backend().Mamba(batch, layer_, state, workspace);
  }

  std::vector<Numbers> Reference(const Rows& tokens) const override {
    std::vector<Numbers> projected, state(shape_.inner, Numbers(shape_.state)), result;
    for (const Row& token : tokens) {
      projected.push_back(in_->TimesNorm(token, norm_, 1e-5));
      Add(in_bias_, projected.back());
      Numbers added = out_->Times(Mix(projected, state));
      Add(out_bias_, added);
      result.push_back(added);
    }
    return result;
  }

 private:
  bool standard() const { return shape_.source == 0; }
  int64_t projected_width() const {
    return standard() ? 2 * shape_.inner : 2 * shape_.source + 2 * shape_.inner + kRank;
  }
  // Number i of a row of repeated groups stands at this place of the groups.
  int Origin(int i) const {
    if (standard()) return i;
    return i / shape_.state / (shape_.inner / shape_.source) * shape_.state + i % shape_.state;
  }
  void Add(const Row& bias, Numbers& row) const {
    for (size_t i = 0; i < row.size() && shape_.biases; ++i) row[i] += bias[i];
  }

  void DrawDecay(std::mt19937& random) {
    a_.resize(shape_.inner * shape_.state);
    blocked_a_.assign((shape_.inner + 15) / 16 * 16 * shape_.state, 0);
    std::uniform_real_distribution<float> logarithm(-4, 2.7f);
    for (int c = 0; c < shape_.inner; ++c) {
      for (int n = 0; n < shape_.state; ++n) {
        const float value = -std::exp(logarithm(random));
        a_[c * shape_.state + n] = value;
        blocked_a_[(c / 16 * shape_.state + n) * 16 + c % 16] = value;
      }
    }
  }

  void FillLayer() {
    layer_.norm = {OnBackend(norm_), 1e-5f};
    layer_.in = &in_->packed;
    layer_.select = standard() ? &select_->packed : nullptr;
    layer_.dt = &dt_->packed;
    layer_.out = &out_->packed;
    layer_.convolution = OnBackend(convolution_);
    layer_.dt_bias = OnBackend(dt_bias_);
    layer_.a = OnBackend(blocked_a_);
    layer_.skip = OnBackend(skip_);
    if (!shape_.biases) return;
    layer_.in_bias = OnBackend(in_bias_);
    layer_.out_bias = OnBackend(out_bias_);
    layer_.convolution_bias = OnBackend(convolution_bias_);
  }

  // The last of the rows so far; the state moves on.
  Numbers Mix(const std::vector<Numbers>& projected, std::vector<Numbers>& state) const {
    const int inner = shape_.inner, size = shape_.state, source = shape_.source;
    const Numbers x = Convolve(projected);
    const Numbers& row = projected.back();
    Numbers low, b, c;
    if (standard()) {
      const Numbers selected = select_->Times(x);
      low.assign(selected.begin(), selected.begin() + kRank);
      b.assign(selected.begin() + kRank, selected.begin() + kRank + size);
      c.assign(selected.begin() + kRank + size, selected.end());
      if (shape_.selection_norm) {
        for (Numbers* part : {&low, &b, &c}) *part = RmsNorm(*part, {}, 1e-6);
      }
    } else {
      for (int i = 0; i < inner; ++i) b.push_back(row[source + inner + Origin(i)]);
      c.assign(row.begin() + 2 * source + inner, row.begin() + 2 * source + 2 * inner);
      low.assign(row.end() - kRank, row.end());
    }
    const Numbers delta = dt_->Times(low);
    Numbers y(inner);
    for (int channel = 0; channel < inner; ++channel) {
      const double dt = Softplus(delta[channel] + dt_bias_[channel]);
      const int group = channel / (inner / shape_.groups) * size;
      for (int n = 0; n < size; ++n) {
        double& s = state[channel][n];
        s = std::exp(dt * a_[channel * size + n]) * s + dt * b[group + n] * x[channel];
        y[channel] += c[group + n] * s;
      }
      const double z = row[(standard() ? inner : source) + channel];
      y[channel] = (y[channel] + skip_[channel] * x[channel]) * SiLU(z);
    }
    return y;
  }

  Numbers Convolve(const std::vector<Numbers>& projected) const {
    Numbers x(shape_.inner);
    for (int c = 0; c < shape_.inner; ++c) {
      const int channel = shape_.repeat_before ? c : Origin(c);
      x[c] = shape_.biases ? convolution_bias_[channel] : 0;
      for (int j = 0; j < shape_.taps; ++j) {
        const int64_t t = static_cast<int64_t>(projected.size()) - shape_.taps + j;
        if (t >= 0) x[c] += convolution_[channel * shape_.taps + j] * projected[t][Origin(c)];
      }
      x[c] = SiLU(x[c]);
    }
    return x;
  }

  MambaShape shape_;
  MambaLayer layer_;
  Row norm_, in_bias_, out_bias_, convolution_, convolution_bias_, dt_bias_, skip_, a_, blocked_a_;
  const TestMatrix *in_ = nullptr, *select_ = nullptr, *dt_ = nullptr, *out_ = nullptr;
};

class MambaTest : public OnBackend<std::tuple<std::string, MambaShape>> {
 protected:
  const MambaShape& shape() const { return std::get<1>(GetParam()); }
  void Prepare() override {
    checks_ = std::make_unique<MixerChecks>(tested(), [this](Backend& backend) {
      return std::make_unique<MambaUnderTest>(backend, shape());
    });
  }
  std::unique_ptr<MixerChecks> checks_;
};

TEST_P(MambaTest, AgreesWithDoublePrecision) {
  for (const int length : {1, 6, 300}) checks_->AgreesWithReference(length, length);
}
TEST_P(MambaTest, Invariant3OtherSequencesDoNotMatter) { checks_->BatchDoesNotMatter(7, 5, false); }
TEST_P(MambaTest, Invariant3OtherSequencesDoNotMatterToDrafts) {
  checks_->BatchDoesNotMatter(8, 4, true);
}

TEST_P(MambaTest, Invariant1CommitEqualsDecodingOneByOne) {
  checks_->CommitEqualsOneByOne(4, false);
}
TEST_P(MambaTest, Invariant1DraftWindowsEqualDecodingOneByOne) {
  checks_->CommitEqualsOneByOne(5, true);
}
TEST_P(MambaTest, Invariant1DraftsMayFillTheWindow) {
  for (bool as_draft : {false, true}) checks_->DraftsMayFillTheWindow(9, as_draft);
}
TEST_P(MambaTest, Invariant3PromptChunksAndThreadsDoNotMatter) {
  checks_->ChunksDoNotMatter(6, {1, 2, 3, 4, 5, 16, 18, 19, 20, 37, 38, 39, 64, 65, 130});
}
TEST_P(MambaTest, SlotsHoldWhatWindowsTake) {
  const int64_t channels = (shape().inner + 15) / 16 * 16;
  const int64_t b = shape().source > 0 ? shape().source : int64_t{shape().groups} * shape().state;
  checks_->SlotsHoldWhatWindowsTake(channels * shape().state, 2 * shape().inner + b);
}

const auto kShapes = ::testing::Values(
    MambaShape{"Standard", 64, 16, 1, 0}, MambaShape{"Narrow", 20, 5, 1, 0, 2, true, false},
    MambaShape{"WideState", 32, 39, 1, 0, 3},
    MambaShape{"SelectionNorm", 48, 16, 1, 0, 4, true, true, true},
    MambaShape{"Bfloat16", 64, 16, 1, 0, 4, true, true, false, ElementType::kBFloat16},
    MambaShape{"WideBfloat16", 512, 16, 1, 0, 4, true, true, false, ElementType::kBFloat16},
    MambaShape{"OddBfloat16", 512, 12, 1, 0, 4, true, true, false, ElementType::kBFloat16},
    MambaShape{"Llama", 128, 16, 8, 32}, MambaShape{"LlamaRepeatAfter", 96, 16, 6, 32, 4, false},
    MambaShape{"LlamaNarrowGroups", 48, 8, 6, 16, 4, false},
    MambaShape{"LlamaOddGroups", 36, 6, 6, 12, 8, true, false},
    MambaShape{"LlamaNoRepeat", 32, 16, 2, 32},
    MambaShape{"LlamaBfloat16", 96, 16, 6, 32, 4, false, true, false, ElementType::kBFloat16});
INSTANTIATE_TEST_SUITE_P(Variants, MambaTest,
                         ::testing::Combine(::testing::ValuesIn(TestedVariants()), kShapes),
                         NameOfShape<MambaShape>);

}  // namespace
}  // namespace mambad::kernels
