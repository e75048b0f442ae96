// Backend::Attention: its formula, positions, pages, exactness.

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

struct AttentionShape {
  const char* name;
  int query_heads, key_value_heads, head_width;
  int window = 0;
  bool head_norms = false;
  bool biases = false;
  float score_factor = 1;
  RotaryGrowth growth = {};
  ElementType weights = ElementType::kFloat32;
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
  int key_value_heads() const override { return shape_.key_value_heads; }
  int head_width() const override { return shape_.head_width; }
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
    Numbers projected = in_->Times(RmsNorm(token, norm_, 1e-5));
    for (size_t i = 0; i < projected.size() && shape_.biases; ++i) projected[i] += in_bias_[i];
    std::vector<Numbers> heads;
    const int queries = shape_.query_heads, rotated = queries + shape_.key_value_heads;
    for (auto at = projected.begin(); at != projected.end(); at += shape_.head_width) {
      heads.emplace_back(at, at + shape_.head_width);
      const int head = static_cast<int>(heads.size()) - 1;
      if (head >= rotated) continue;
      if (shape_.head_norms) {
        heads.back() = RmsNorm(heads.back(), head < queries ? query_norm_ : key_norm_, 1e-6);
      }
      heads.back() = Rotated(heads.back(), position, FrequenciesAt(position));
    }
    return heads;
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

const auto kShapes = ::testing::Values(
    AttentionShape{"Grouped", 9, 3, 64}, AttentionShape{"OneEach", 2, 2, 32},
    AttentionShape{"ManyToOne", 40, 1, 16}, AttentionShape{"NarrowHeads", 8, 4, 8},
    AttentionShape{"OddWidth", 4, 2, 50}, AttentionShape{"Window", 6, 2, 32, 20},
    AttentionShape{"WindowOfOne", 2, 1, 16, 1}, AttentionShape{"WindowOfPages", 4, 2, 16, 48},
    AttentionShape{"HeadNorms", 4, 2, 32, 0, true, false, 0.7f},
    AttentionShape{"Biases", 4, 2, 16, 0, false, true},
    AttentionShape{"Growth", 4, 2, 32, 0, false, false, 1, {50, 4.0}},
    AttentionShape{"Bfloat16", 6, 2, 32, 0, false, false, 1, {}, ElementType::kBFloat16});
INSTANTIATE_TEST_SUITE_P(Variants, AttentionTest,
                         ::testing::Combine(::testing::ValuesIn(TestedVariants()), kShapes),
                         NameOfShape<AttentionShape>);

// One head that sees itself and the token before it, wherever they stand. The rows come through
// norm and products as they are: their mean square is 1, and the matrices take one number each.
class RotaryEmbeddingTest : public OnBackend<> {
 protected:
  static constexpr int kWidth = 64;

  // [rows, columns] with ones at the diagonal.
  static Row Diagonal(int rows, int columns) {
    Row numbers(rows * columns, 0);
    for (int i = 0; i < std::min(rows, columns); ++i) numbers[i * columns + i] = 1;
    return numbers;
  }
};

TEST_P(RotaryEmbeddingTest, IsAccurateAtLatePositions) {
  std::mt19937 random(3);
  constexpr int kPages = (1 << 20) / kPageTokens;
  const TestMatrix in(backend(), 3 * kWidth, 3 * kWidth, ElementType::kFloat32,
                      Diagonal(3 * kWidth, 3 * kWidth));
  const TestMatrix out(backend(), 3 * kWidth, kWidth, ElementType::kFloat32,
                       Diagonal(3 * kWidth, kWidth));
  Row ones;
  for (int i = 0; i < 6 * kWidth; ++i) ones.push_back(random() % 2 == 0 ? 1 : -1);
  const TestMatrix embedding(backend(), 2, 3 * kWidth, ElementType::kFloat32, ones);
  const Row frequency = Frequencies(kWidth), scale = RandomRow(random, 3 * kWidth);
  const DeviceArray<float> device_frequency(backend(), frequency), device_scale(backend(), scale);
  AttentionLayer layer;
  layer.query_heads = layer.key_value_heads = 1;
  layer.head_width = kWidth;
  layer.sliding_window = 2;
  layer.norm = {device_scale.data(), 0};
  layer.in = &in.packed;
  layer.out = &out.packed;
  layer.inverse_frequency = device_frequency.data();
  const DeviceArray<float> keys(backend(), kWidth * kPageTokens),
      values(backend(), kWidth * kPageTokens);
  const DeviceArray<int32_t> pages(backend(), std::vector<int32_t>(kPages, 0));  // all the same one
  WorkspaceShape shape = SmallWorkspace(2, 3 * kWidth, 2);
  shape.max_context = 1 << 20;
  const auto workspace = backend().CreateWorkspace(shape);
  BatchArrays arrays(backend());
  for (const int position : {0, 14, 1000, 131070, 524286, 999998, 1048574}) {
    StepRows rows;
    rows.Add(0, position, {0, 1});
    const Batch batch = arrays.Write(rows, pages.data(), kPages);
    RunRound(backend(), batch, [&] {
      backend().Embed(batch, embedding.packed, *workspace);
      backend().Attention(batch, layer, {keys.data(), values.data()}, *workspace);
    });
    const Rows residual = ReadRows(backend(), workspace->residual, 2);
    std::vector<Numbers> query, key, value;
    for (int t = 0; t < 2; ++t) {
      Numbers row;
      for (int i = 0; i < 3 * kWidth; ++i) row.push_back(embedding.At(t)[i] * double{scale[i]});
      const auto head = [&](int begin) {
        return Numbers(row.begin() + begin, row.begin() + begin + kWidth);
      };
      query.push_back(Rotated(head(0), position + t, frequency));
      key.push_back(Rotated(head(kWidth), position + t, frequency));
      value.push_back(head(2 * kWidth));
    }
    const Row kept = keys.Read();
    std::vector<Numbers> kept_keys(2, Numbers(kWidth)), attended(1, Numbers(kWidth));
    double weights[2], total = 0;
    for (int t = 0; t < 2; ++t) {
      double score = 0;
      for (int i = 0; i < kWidth; ++i) {
        kept_keys[t][i] = kept[i * kPageTokens + (position + t) % kPageTokens];
        score += query[1][i] * key[t][i];
      }
      total += weights[t] = std::exp(score / std::sqrt(kWidth));
    }
    EXPECT_LE(RelativeError(kept_keys, key), 3e-7) << position;
    Numbers expected(kWidth);
    for (int i = 0; i < kWidth; ++i) {
      for (int t = 0; t < 2; ++t) expected[i] += weights[t] / total * value[t][i];
      attended[0][i] = residual[1][i] - double{embedding.At(1)[i]};
    }
    EXPECT_LE(RelativeError(attended, {expected}), 2e-6) << position;
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, RotaryEmbeddingTest, ::testing::ValuesIn(TestedDevices()),
                         NameOfVariant);

}  // namespace
}  // namespace mambad::kernels
