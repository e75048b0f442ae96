// Backend::Attention: its formula, positions, pages, exactness.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend/mixer_checks.h"
#include "tests/kernels/backend/tested_backend.h"

namespace mambad::kernels {
namespace {

struct AttentionShape {
  const char* name;
  int query_heads, key_value_heads, head_width;
  int window = 0;
  bool head_norms = false;
  bool biases = false;
  float score_factor = 1;
  RotaryGrowth growth = {};
  ElementType weights = ElementType::kFloat32;
  ElementType key_values = ElementType::kFloat32;
};

// One head rotated to its position.
Numbers Rotated(const Numbers& head, int64_t position, const Row& frequency) {
  const size_t half = head.size() / 2;
  Numbers result(head.size());
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * frequency[i];
    result[i] = head[i] * std::cos(angle) - head[i + half] * std::sin(angle);
    result[i + half] = head[i + half] * std::cos(angle) + head[i] * std::sin(angle);
  }
  return result;
}

Row Frequencies(int head_width) {
  Row frequency;
  for (int i = 0; i < head_width / 2; ++i) {
    frequency.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / head_width)));
  }
  return frequency;
}

class AttentionUnderTest : public MixerUnderTest {
 public:
  static constexpr int kWidth = 40;

  AttentionUnderTest(Backend& backend, const AttentionShape& shape)
      : MixerUnderTest(backend, shape.weights),
        shape_(shape),
        frequency_(Frequencies(shape.head_width)) {
    std::mt19937 random(7);
    layer_.query_heads = shape.query_heads;
    layer_.key_value_heads = shape.key_value_heads;
    layer_.head_width = shape.head_width;
    layer_.sliding_window = shape.window;
    layer_.score_factor = shape.score_factor;
    layer_.growth = shape.growth;
    norm_ = RandomRow(random, kWidth);
    query_norm_ = RandomRow(random, shape.head_width);
    key_norm_ = RandomRow(random, shape.head_width);
    in_bias_ = RandomRow(random, projected_width());
    out_bias_ = RandomRow(random, kWidth);
    in_ = &Matrix(random, projected_width(), kWidth);
    out_ = &Matrix(random, kWidth, int64_t{shape.query_heads} * shape.head_width);
    layer_.norm = {OnBackend(norm_), 1e-5f};
    layer_.in = &in_->packed;
    layer_.out = &out_->packed;
    layer_.inverse_frequency = OnBackend(frequency_);
    if (shape.head_norms) {
      layer_.query_norm = {OnBackend(query_norm_), 1e-6f};
      layer_.key_norm = {OnBackend(key_norm_), 1e-6f};
    }
    if (shape.biases) {
      layer_.in_bias = OnBackend(in_bias_);
      layer_.out_bias = OnBackend(out_bias_);
    }
  }

  int64_t width() const override { return kWidth; }
  WorkspaceShape workspace() const override {
    WorkspaceShape shape;
    shape.max_projection = projected_width();
    shape.max_inner = int64_t{shape_.query_heads} * shape_.head_width;
    return shape;
  }
  RecurrentSlotLayout layout(int, bool) const override { return {}; }
  KeyValueLayout page_layout() const override {
    return backend().PageLayout(layer_, shape_.key_values);
  }
  // Where rounding is near a tie, single precision may take the other side.
  double tolerance() const override {
    const bool rounds = shape_.key_values == ElementType::kBFloat16;
    return std::max(MixerUnderTest::tolerance(), rounds ? 3e-4 : 0);
  }
  void Run(const Batch& batch, const RecurrentState&, const KeyValueState& pages,
           Workspace& workspace) const override {
    backend().Attention(batch, layer_, pages, workspace);
  }

  std::vector<Numbers> Reference(const Rows& tokens) const override {
    const int queries = shape_.query_heads, keys = shape_.key_value_heads;
    std::vector<std::vector<Numbers>> heads;  // of each token
    std::vector<Numbers> result;
    for (const Row& token : tokens) {
      heads.push_back(Heads(token, static_cast<int64_t>(heads.size())));
      const int t = static_cast<int>(heads.size()) - 1;
      Numbers mixed;
      for (int head = 0; head < queries; ++head) {
        const int key = queries + head / (queries / keys);
        const Numbers sum = Attended(heads, t, head, key, key + keys);
        mixed.insert(mixed.end(), sum.begin(), sum.end());
      }
      Numbers added = out_->Times(mixed);
      for (int i = 0; i < kWidth && shape_.biases; ++i) added[i] += out_bias_[i];
      result.push_back(added);
    }
    return result;
  }

 private:
  int64_t projected_width() const {
    return int64_t{shape_.query_heads + 2 * shape_.key_value_heads} * shape_.head_width;
  }

  Row FrequenciesAt(int64_t position) const {
    Row result = frequency_;
    const RotaryGrowth& growth = shape_.growth;
    if (growth.context == 0 || position < growth.context) return result;
    const double base =
        growth.factor * static_cast<double>(position + 1) / static_cast<double>(growth.context) -
        (growth.factor - 1);
    for (size_t i = 0; i < result.size(); ++i) {
      result[i] = static_cast<float>(
          result[i] / std::pow(base, 2.0 * static_cast<double>(i) / (shape_.head_width - 2)));
    }
    return result;
  }

  // Query, key and value heads of a token, as they are kept.
  std::vector<Numbers> Heads(const Row& token, int64_t position) const {
    Numbers projected = in_->TimesNorm(token, norm_, 1e-5);
    for (size_t i = 0; i < projected.size() && shape_.biases; ++i) projected[i] += in_bias_[i];
    std::vector<Numbers> heads;
    const int queries = shape_.query_heads, rotated = queries + shape_.key_value_heads;
    for (auto at = projected.begin(); at != projected.end(); at += shape_.head_width) {
      heads.emplace_back(at, at + shape_.head_width);
      const int head = static_cast<int>(heads.size()) - 1;
      if (head < rotated && shape_.head_norms) {
        heads.back() = RmsNorm(heads.back(), head < queries ? query_norm_ : key_norm_, 1e-6);
      }
      if (head < rotated) heads.back() = Rotated(heads.back(), position, FrequenciesAt(position));
      for (double& number : heads.back()) {
        if (head >= queries) number = Kept(number);
      }
    }
    return heads;
  }

  double Kept(double number) const {
    if (shape_.key_values == ElementType::kFloat32) return number;
    return RoundedTo(shape_.key_values, static_cast<float>(number));
  }

  Numbers Attended(const std::vector<std::vector<Numbers>>& heads, int t, int query, int key,
                   int value) const {
    const int width = shape_.head_width;
    const int first = shape_.window > 0 ? std::max(0, t - shape_.window + 1) : 0;
    Numbers sum(width);
    double total = 0;
    for (int k = first; k <= t; ++k) {
      double score = 0;
      for (int i = 0; i < width; ++i) score += heads[t][query][i] * heads[k][key][i];
      const double weight = std::exp(score / std::sqrt(width) * shape_.score_factor);
      total += weight;
      for (int i = 0; i < width; ++i) sum[i] += weight * heads[k][value][i];
    }
    for (double& number : sum) number /= total;
    return sum;
  }

  AttentionShape shape_;
  AttentionLayer layer_;
  Row frequency_, norm_, query_norm_, key_norm_, in_bias_, out_bias_;
  const TestMatrix *in_ = nullptr, *out_ = nullptr;
};

class AttentionTest : public OnBackend<std::tuple<std::string, AttentionShape>> {
 protected:
  void Prepare() override {
    checks_ = std::make_unique<MixerChecks>(tested(), [this](Backend& backend) {
      return std::make_unique<AttentionUnderTest>(backend, std::get<1>(GetParam()));
    });
  }
  std::unique_ptr<MixerChecks> checks_;
};

TEST_P(AttentionTest, AgreesWithDoublePrecision) {
  for (const int length : {1, 17, 200}) checks_->AgreesWithReference(length, length);
}
TEST_P(AttentionTest, Invariant3OtherSequencesDoNotMatter) {
  checks_->BatchDoesNotMatter(7, 5, false);
}

TEST_P(AttentionTest, Invariant1CommitEqualsDecodingOneByOne) {
  checks_->CommitEqualsOneByOne(4, false);
}
TEST_P(AttentionTest, Invariant1DraftWindowsEqualDecodingOneByOne) {
  checks_->CommitEqualsOneByOne(5, true);
}
TEST_P(AttentionTest, Invariant3PromptChunksAndThreadsDoNotMatter) {
  checks_->ChunksDoNotMatter(6, {1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 130});
}

AttentionShape WithNarrowKeys(AttentionShape shape) {
  shape.key_values = ElementType::kBFloat16;
  return shape;
}

const auto kShapes = ::testing::Values(
    AttentionShape{"Grouped", 9, 3, 64}, AttentionShape{"OneEach", 2, 2, 32},
    AttentionShape{"ManyToOne", 40, 1, 16}, AttentionShape{"NarrowHeads", 8, 4, 8},
    AttentionShape{"OddWidth", 4, 2, 50}, AttentionShape{"Window", 6, 2, 32, 20},
    AttentionShape{"WindowOfOne", 2, 1, 16, 1}, AttentionShape{"WindowOfPages", 4, 2, 16, 48},
    AttentionShape{"HeadNorms", 4, 2, 32, 0, true, false, 0.7f},
    AttentionShape{"Biases", 4, 2, 16, 0, false, true},
    AttentionShape{"Growth", 4, 2, 32, 0, false, false, 1, {50, 4.0}},
    AttentionShape{"Bfloat16", 6, 2, 32, 0, false, false, 1, {}, ElementType::kBFloat16},
    WithNarrowKeys({"GroupedNarrowKeys", 9, 3, 64}),
    WithNarrowKeys({"NarrowHeadsAndKeys", 8, 4, 8}),
    WithNarrowKeys({"OddWidthNarrowKeys", 4, 2, 50, 20}));
INSTANTIATE_TEST_SUITE_P(Variants, AttentionTest,
                         ::testing::Combine(::testing::ValuesIn(TestedVariants()), kShapes),
                         NameOfShape<AttentionShape>);

// ---- one head whose numbers are known -----------------------------------------------------------

// Rows come through norm and products as they are: they are of ones, whose mean square is 1, the
// norm's weight says the numbers, up to their signs, and the matrices take each number once. A
// query sees as many tokens as a page holds.
class OneHeadTest : public OnBackend<> {
 protected:
  static constexpr int kWidth = 64, kPages = (1 << 20) / kPageTokens, kTokens = 40;

  void Prepare() override { Prepare(ElementType::kFloat32, RandomNumbers(3)); }
  void Prepare(ElementType key_values, const Row& numbers) {
    numbers_ = numbers;
    Row signs(kTokens * 3 * kWidth, 1);
    for (float& sign : signs) sign = random_() % 2 == 0 ? 1 : -1;
    std::fill_n(signs.begin(), 3 * kWidth, 1.0f);  // of the first token
    embedding_ = Matrix(kTokens, 3 * kWidth, signs);
    in_ = Matrix(3 * kWidth, 3 * kWidth, Diagonal(3 * kWidth));
    out_ = Matrix(3 * kWidth, kWidth, Diagonal(kWidth));
    frequency_ = std::make_unique<DeviceArray<float>>(backend(), Frequencies(kWidth));
    scale_ = std::make_unique<DeviceArray<float>>(backend(), numbers);
    layer_.query_heads = layer_.key_value_heads = 1;
    layer_.head_width = kWidth;
    layer_.sliding_window = kPageTokens;
    layer_.norm = {scale_->data(), 0};
    layer_.in = &in_->packed;
    layer_.out = &out_->packed;
    layer_.inverse_frequency = frequency_->data();
    layout_ = backend().PageLayout(layer_, key_values);
    keys_ = std::make_unique<DeviceArray<std::byte>>(backend(), 3 * layout_.key_bytes);
    values_ = std::make_unique<DeviceArray<std::byte>>(backend(), 3 * layout_.value_bytes);
    table_ = std::make_unique<DeviceArray<int32_t>>(backend(), kPages);
    WorkspaceShape shape = SmallWorkspace(kTokens, 3 * kWidth, kTokens);
    shape.max_context = 1 << 20;
    workspace_ = backend().CreateWorkspace(shape);
    arrays_ = std::make_unique<BatchArrays>(backend());
  }

  Row RandomNumbers(uint32_t seed) {
    std::mt19937 random(seed);
    return RandomRow(random, 3 * kWidth);
  }
  std::unique_ptr<TestMatrix> Matrix(int rows, int columns, const Row& numbers) {
    return std::make_unique<TestMatrix>(backend(), rows, columns, ElementType::kFloat32, numbers);
  }
  // [3 kWidth, columns] with ones at the diagonal.
  static Row Diagonal(int columns) {
    Row numbers(3 * kWidth * columns, 0);
    for (int i = 0; i < columns; ++i) numbers[i * columns + i] = 1;
    return numbers;
  }

  // Query, key (1) or value (2) of a token, before rotation.
  Numbers Head(int token, int which) const {
    Numbers head;
    for (int i = which * kWidth; i < (which + 1) * kWidth; ++i) {
      head.push_back(embedding_->At(token)[i] * double{numbers_[i]});
    }
    return head;
  }
  // What attention gives the last of the tokens, which stand from `position` on. Positions from
  // `first` on have page 0, those of the next page have page 1, all others page 2.
  Row Attend(const std::vector<int32_t>& tokens, int position, int first) {
    std::vector<int32_t> pages(kPages, 2);
    pages[first / kPageTokens] = 0;
    if (first / kPageTokens + 1 < kPages) pages[first / kPageTokens + 1] = 1;
    table_->Write(pages);
    StepRows rows;
    rows.Add(0, position, tokens);
    const Batch batch = arrays_->Write(rows, table_->data(), kPages);
    RunRound(backend(), [&] {
      backend().Embed(batch, embedding_->packed, *workspace_);
      backend().Attention(batch, layer_, {keys_->data(), values_->data(), layout_}, *workspace_);
    });
    Row last = ReadRows(backend(), workspace_->residual, batch.rows).back();
    for (int i = 0; i < kWidth; ++i) last[i] -= embedding_->At(tokens.back())[i];
    last.resize(kWidth);
    return last;
  }

  std::mt19937 random_{7};
  Row numbers_;
  std::unique_ptr<TestMatrix> embedding_, in_, out_;
  std::unique_ptr<DeviceArray<float>> frequency_, scale_;
  AttentionLayer layer_;
  KeyValueLayout layout_;
  std::unique_ptr<DeviceArray<std::byte>> keys_, values_;
  std::unique_ptr<DeviceArray<int32_t>> table_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<BatchArrays> arrays_;
};

// A late query over early keys, whose page has become that of late positions, and an early one over
// keys the last of which is late: an angle that is off by as much at both would not show.
TEST_P(OneHeadTest, RotationIsAccurateAtLatePositions) {
  const Row frequency = Frequencies(kWidth);
  std::vector<int32_t> first;
  for (int token = 0; token < kPageTokens; ++token) first.push_back(token);
  for (const int late : {15, 1007, 131071, 524287, 999999, 1048575}) {
    std::vector<Numbers> keys, values;  // as they stand in the page
    const auto keep = [&](int token, int position) {
      const size_t place = position % kPageTokens;
      keys.resize(std::max(keys.size(), place + 1));
      values.resize(keys.size());
      keys[place] = Rotated(Head(token, 1), position, frequency);
      values[place] = Head(token, 2);
    };
    const auto expect = [&](const Row& found, int token, int position) {
      const Numbers query = Rotated(Head(token, 0), position, frequency);
      Numbers sum(kWidth);
      double total = 0;
      for (int t = 0; t < kPageTokens; ++t) {
        double score = 0;
        for (int i = 0; i < kWidth; ++i) score += query[i] * keys[t][i];
        const double weight = std::exp(score / std::sqrt(kWidth));
        total += weight;
        for (int i = 0; i < kWidth; ++i) sum[i] += weight * values[t][i];
      }
      for (double& number : sum) number /= total;
      EXPECT_LE(RelativeError(Rows{found}, {sum}), 3e-6) << position << " of " << late;
    };
    Attend(first, 0, 0);
    for (int t = 0; t < kPageTokens; ++t) keep(t, t);
    keep(20, late);
    expect(Attend({20}, late, late), 20, late);
    keep(21, kPageTokens);
    expect(Attend({21}, kPageTokens, 0), 21, kPageTokens);
  }
}

// At position 0 nothing is rotated, and a token that sees itself alone gives its value.
TEST_P(OneHeadTest, KeysAndValuesAreRoundedOnceToTheNearest) {
  constexpr float kUnit = 1.0f / 128;  // of bf16 at 1
  const Row given = {
      1 + kUnit / 2, 1 + 3 * kUnit / 2, 1 + 0.51f * kUnit, -1 - 0.49f * kUnit, 3.3e38f, -2.5f, 0.1f,
      -1e-30f};
  Row numbers(3 * kWidth, 0);
  std::copy(given.begin(), given.end(), numbers.begin() + 2 * kWidth);
  for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16}) {
    Prepare(type, numbers);
    const Row values = Attend({0}, 0, 0);
    for (size_t i = 0; i < given.size(); ++i) {
      const float kept = RoundedTo(type, given[i]);
      EXPECT_NEAR(values[i], kept, 2e-7 * std::max(1.0f, std::abs(kept))) << given[i];
    }
  }
  EXPECT_EQ(RoundedTo(ElementType::kBFloat16, given[0]), 1);  // ties go to the even one
  EXPECT_EQ(RoundedTo(ElementType::kBFloat16, given[1]), 1 + 2 * kUnit);
}

INSTANTIATE_TEST_SUITE_P(Variants, OneHeadTest, ::testing::ValuesIn(TestedVariants()),
                         NameOfVariant);

}  // namespace
}  // namespace mambad::kernels
