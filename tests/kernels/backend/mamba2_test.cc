// Backend::Mamba2: its formula, verify-and-commit, exactness.

#include <algorithm>
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

struct Mamba2Shape {
  const char* name;
  int inner, state, heads, groups, source;
  int taps = 4;
  bool repeat_before = false;
  bool biases = true;
  float dt_minimum = 0, dt_maximum = kInfinity;
  ElementType weights = ElementType::kFloat32;

  int groups_width() const { return groups * state; }
  int source_x() const { return source > 0 ? source : inner; }
  int source_b() const { return source > 0 ? source : groups_width(); }
  bool repeats_early() const { return source > 0 && repeat_before; }
  // Of x and B as the convolution gives them.
  int convolved_x() const { return repeats_early() ? inner : source_x(); }
  int convolved_b() const { return repeats_early() ? groups_width() : source_b(); }
};

class Mamba2UnderTest : public MixerUnderTest {
 public:
  static constexpr int kWidth = 40;

  Mamba2UnderTest(Backend& backend, const Mamba2Shape& shape)
      : MixerUnderTest(backend, shape.weights), shape_(shape) {
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
    norm_ = RandomRow(random, kWidth);
    in_bias_ = RandomRow(random, projected_width(), 0.3f);
    out_bias_ = RandomRow(random, kWidth, 0.3f);
    convolution_ = RandomRow(random, layer_.convolution_channels() * shape.taps, 0.6f);
    convolution_bias_ = RandomRow(random, layer_.convolution_channels(), 0.2f);
    gated_norm_ = RandomRow(random, shape.inner);
    dt_bias_ = RandomRow(random, shape.heads);
    skip_ = RandomRow(random, shape.heads);
    for (float& bias : dt_bias_) bias -= 2;
    std::uniform_real_distribution<float> logarithm(-4, 2.7f);
    for (int head = 0; head < shape.heads; ++head) a_.push_back(-std::exp(logarithm(random)));
    in_ = &Matrix(random, projected_width(), kWidth);
    out_ = &Matrix(random, kWidth, shape.inner);
    FillLayer();
  }

  int64_t width() const override { return kWidth; }
  WorkspaceShape workspace() const override {
    WorkspaceShape shape;
    shape.max_projection = projected_width();
    shape.max_inner = layer_.convolution_channels() + shape_.inner;
    return shape;
  }
  RecurrentSlotLayout layout(int window_rows, bool keeps_working) const override {
    return backend().SlotLayout(layer_, window_rows, keeps_working);
  }
  int ring_channels() const override { return layer_.convolution_channels(); }
  int convolution_width() const override { return shape_.taps; }
  void Run(const Batch& batch, const RecurrentState& state, const KeyValueState&,
           Workspace& workspace) const override {
    backend().Mamba2(batch, layer_, state, workspace);
  }

  std::vector<Numbers> Reference(const Rows& tokens) const override {
    std::vector<Numbers> projected, state(shape_.inner, Numbers(shape_.state)), result;
    for (const Row& token : tokens) {
      projected.push_back(in_->TimesNorm(token, norm_, 1e-5));
      Add(in_bias_, projected.back());
      Numbers added = out_->Times(Normalised(Mix(projected, state)));
      Add(out_bias_, added);
      result.push_back(added);
    }
    return result;
  }

 private:
  // [z, x, B, C, dt]
  int64_t projected_width() const {
    return shape_.inner + shape_.source_x() + shape_.source_b() + shape_.groups_width() +
           shape_.heads;
  }
  void Add(const Row& bias, Numbers& row) const {
    for (size_t i = 0; i < row.size() && shape_.biases; ++i) row[i] += bias[i];
  }

  void FillLayer() {
    layer_.norm = {OnBackend(norm_), 1e-5f};
    layer_.in = &in_->packed;
    layer_.out = &out_->packed;
    layer_.convolution = OnBackend(convolution_);
    layer_.dt_bias = OnBackend(dt_bias_);
    layer_.a = OnBackend(a_);
    layer_.skip = OnBackend(skip_);
    layer_.gated_norm = {OnBackend(gated_norm_), 1e-5f};
    if (!shape_.biases) return;
    layer_.in_bias = OnBackend(in_bias_);
    layer_.out_bias = OnBackend(out_bias_);
    layer_.convolution_bias = OnBackend(convolution_bias_);
  }

  // Value of a convolution channel in the last row, its input taken from column `column`.
  double Convolved(const std::vector<Numbers>& projected, int channel, int64_t column) const {
    double x = shape_.biases ? convolution_bias_[channel] : 0;
    for (int j = 0; j < shape_.taps; ++j) {
      const int64_t t = static_cast<int64_t>(projected.size()) - shape_.taps + j;
      if (t >= 0) x += convolution_[channel * shape_.taps + j] * projected[t][column];
    }
    return SiLU(x);
  }

  // The last of the rows so far, gated; the state moves on.
  Numbers Mix(const std::vector<Numbers>& projected, std::vector<Numbers>& state) const {
    const int width = shape_.inner / shape_.heads, size = shape_.state;
    const int repeats = shape_.source > 0 ? shape_.inner / shape_.source : 1;
    const auto origin = [&](int i, int group) { return i / group / repeats * group + i % group; };
    const bool early = shape_.repeats_early();
    const int64_t x_column = shape_.inner, b_column = x_column + shape_.source_x(),
                  c_column = b_column + shape_.source_b();
    const Numbers& row = projected.back();
    Numbers y(shape_.inner);
    for (int head = 0; head < shape_.heads; ++head) {
      const double raw = row[c_column + shape_.groups_width() + head] + dt_bias_[head];
      const double dt =
          std::min<double>(std::max<double>(Softplus(raw), shape_.dt_minimum), shape_.dt_maximum);
      const double decay = std::exp(dt * a_[head]);
      const int group = head / (shape_.heads / shape_.groups);
      Numbers b(size), c(size);
      for (int n = 0; n < size; ++n) {
        const int i = group * size + n, from = origin(i, size);
        b[n] = Convolved(projected, shape_.convolved_x() + (early ? i : from), b_column + from);
        c[n] = Convolved(projected, shape_.convolved_x() + shape_.convolved_b() + i, c_column + i);
      }
      for (int p = 0; p < width; ++p) {
        const int i = head * width + p, from = origin(i, width);
        const double x = Convolved(projected, early ? i : from, x_column + from);
        for (int n = 0; n < size; ++n) {
          state[i][n] = decay * state[i][n] + dt * x * b[n];
          y[i] += state[i][n] * c[n];
        }
        y[i] = (y[i] + skip_[head] * x) * SiLU(row[i]);
      }
    }
    return y;
  }

  Numbers Normalised(const Numbers& y) const {
    const int width = shape_.inner / shape_.groups;
    Numbers result;
    for (int begin = 0; begin < shape_.inner; begin += width) {
      const auto part = [&](const auto& all) {
        return std::vector(all.begin() + begin, all.begin() + begin + width);
      };
      const Numbers normalised = RmsNorm(part(y), part(gated_norm_), 1e-5);
      result.insert(result.end(), normalised.begin(), normalised.end());
    }
    return result;
  }

  Mamba2Shape shape_;
  Mamba2Layer layer_;
  Row norm_, in_bias_, out_bias_, convolution_, convolution_bias_, gated_norm_, dt_bias_, skip_, a_;
  const TestMatrix *in_ = nullptr, *out_ = nullptr;
};

class Mamba2Test : public OnBackend<std::tuple<std::string, Mamba2Shape>> {
 protected:
  const Mamba2Shape& shape() const { return std::get<1>(GetParam()); }
  void Prepare() override {
    checks_ = std::make_unique<MixerChecks>(tested(), [this](Backend& backend) {
      return std::make_unique<Mamba2UnderTest>(backend, shape());
    });
  }
  std::unique_ptr<MixerChecks> checks_;
};

TEST_P(Mamba2Test, AgreesWithDoublePrecision) {
  for (const int length : {1, 6, 150}) checks_->AgreesWithReference(length, length);
}
TEST_P(Mamba2Test, Invariant3OtherSequencesDoNotMatter) {
  checks_->BatchDoesNotMatter(7, 5, false);
}
TEST_P(Mamba2Test, Invariant3OtherSequencesDoNotMatterToDrafts) {
  checks_->BatchDoesNotMatter(8, 4, true);
}

TEST_P(Mamba2Test, Invariant1CommitEqualsDecodingOneByOne) {
  checks_->CommitEqualsOneByOne(4, false);
}
TEST_P(Mamba2Test, Invariant1DraftWindowsEqualDecodingOneByOne) {
  checks_->CommitEqualsOneByOne(5, true);
}
TEST_P(Mamba2Test, Invariant1DraftsMayFillTheWindow) {
  for (bool as_draft : {false, true}) checks_->DraftsMayFillTheWindow(9, as_draft);
}
TEST_P(Mamba2Test, Invariant3PromptChunksAndThreadsDoNotMatter) {
  checks_->ChunksDoNotMatter(6, {1, 2, 3, 4, 5, 16, 18, 19, 20, 37, 38, 39, 64, 65, 130});
}
TEST_P(Mamba2Test, SlotsHoldWhatWindowsTake) {
  checks_->SlotsHoldWhatWindowsTake(int64_t{shape().inner} * shape().state,
                                    shape().convolved_x() + shape().convolved_b() + shape().heads);
}

const auto kShapes = ::testing::Values(
    Mamba2Shape{"Standard", 128, 32, 2, 1, 0}, Mamba2Shape{"Groups", 128, 16, 8, 2, 0},
    Mamba2Shape{"DtLimits", 64, 16, 4, 1, 0, 4, false, true, 0.05f, 0.2f},
    Mamba2Shape{"WideHeads", 192, 10, 2, 1, 0, 3},
    Mamba2Shape{"OddHeads", 44, 7, 4, 2, 0, 2, false, false},
    Mamba2Shape{"Bfloat16", 128, 16, 8, 2, 0, 4, false, true, 0, kInfinity, ElementType::kBFloat16},
    Mamba2Shape{"WideBfloat16", 512, 64, 8, 1, 0, 4, false, true, 0, kInfinity,
                ElementType::kBFloat16},
    Mamba2Shape{"LargeState", 128, 128, 2, 1, 0}, Mamba2Shape{"Llama", 128, 32, 4, 4, 64},
    Mamba2Shape{"LlamaRepeatBefore", 96, 16, 6, 6, 32, 4, true},
    Mamba2Shape{"LlamaSmallHeads", 48, 8, 6, 6, 16, 4, true});
INSTANTIATE_TEST_SUITE_P(Variants, Mamba2Test,
                         ::testing::Combine(::testing::ValuesIn(TestedVariants()), kShapes),
                         NameOfShape<Mamba2Shape>);

}  // namespace
}  // namespace mambad::kernels
