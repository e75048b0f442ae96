// The norm before a product, and which rows and tokens logits are given of.

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/reference.h"
#include "tests/kernels/backend/step_rows.h"
#include "tests/kernels/backend/tested_backend.h"

namespace mambad::kernels {
namespace {

class NormTest : public OnBackend<> {};

// Through a head that takes each number once: what comes out is the norm alone.
TEST_P(NormTest, AgreesWithDoublePrecisionNumberByNumber) {
  std::mt19937 random(1);
  for (const int columns : {1, 3, 15, 16, 17, 63, 64, 65, 576, 1001}) {
    Row ones(columns * columns, 0);
    for (int i = 0; i < columns; ++i) ones[i * columns + i] = 1;
    const TestMatrix head(backend(), columns, columns, ElementType::kFloat32, ones);
    const Row weight = RandomRow(random, columns);
    const DeviceArray<float> device_weight(backend(), weight);
    Row rows;
    for (const float scale : {1e-4f, 1.0f, 1e6f}) {
      const Row row = RandomRow(random, columns, scale);
      rows.insert(rows.end(), row.begin(), row.end());
    }
    const TestMatrix embedding(backend(), 3, columns, ElementType::kFloat32, rows);
    const auto workspace = backend().CreateWorkspace(SmallWorkspace(3, columns, columns));
    StepRows step;
    step.Add(0, 0, {0, 1, 2});
    step.logit_rows = {0, 1, 2};
    BatchArrays arrays(backend());
    const Batch batch = arrays.Write(step);
    for (const bool weighted : {true, false}) {
      RunRound(backend(), [&] {
        backend().Embed(batch, embedding.packed, *workspace);
        backend().Head(batch, {weighted ? device_weight.data() : nullptr, 1e-5f}, head.packed,
                       *workspace);
      });
      const Rows logits = ReadRows(backend(), workspace->logits, 3);
      for (int r = 0; r < 3; ++r) {
        const Numbers expected = RmsNorm(Row(embedding.At(r), embedding.At(r + 1)),
                                         weighted ? weight : Row(), double{1e-5f});
        for (int i = 0; i < columns; ++i) {
          ASSERT_NEAR(logits[r][i], expected[i], 1e-6 * std::abs(expected[i]))
              << "column " << i << " of " << columns << ", row " << r;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, NormTest, ::testing::ValuesIn(TestedVariants()), NameOfVariant);

class HeadTest : public OnBackend<> {
 protected:
  static constexpr int kWidth = 40, kVocabulary = 50, kRows = 11, kDraws = 40 * kVocabulary;

  void Prepare() override {
    std::mt19937 random(1);
    embedding_ = std::make_unique<TestMatrix>(backend(), kVocabulary, kWidth, ElementType::kFloat32,
                                              RandomWeights(random, kVocabulary, kWidth));
    norm_ = RandomRow(random, kWidth);
    device_norm_ = std::make_unique<DeviceArray<float>>(backend(), norm_);
    WorkspaceShape shape = SmallWorkspace(kRows, kWidth, kVocabulary);
    shape.max_sequences = kDraws;
    workspace_ = backend().CreateWorkspace(shape);
    for (int r = 0; r < kRows; ++r) tokens_.push_back((r * 17 + 3) % kVocabulary);
    arrays_ = std::make_unique<BatchArrays>(backend());
  }

  NormWeights norm() const { return {device_norm_->data(), 1e-5f}; }

  // Two sequences, and the logits of `rows` of theirs as the head gives them. `tokens`: of the
  // head; empty: of all.
  Rows Logits(const std::vector<int32_t>& rows, const std::vector<int32_t>& tokens = {}) {
    StepRows step;
    step.Add(1, 0, {tokens_.begin(), tokens_.begin() + 7});
    step.Add(0, 0, {tokens_.begin() + 7, tokens_.end()});
    step.logit_rows = rows;
    const Batch batch = arrays_->Write(step);
    const TestMatrix head(backend(), tokens.empty() ? kVocabulary : std::ssize(tokens), kWidth,
                          ElementType::kFloat32, HeadRows(tokens));
    const DeviceArray<int32_t> ids(backend(), tokens);
    RunRound(backend(), [&] {
      backend().Embed(batch, embedding_->packed, *workspace_);
      if (tokens.empty()) {
        backend().Head(batch, norm(), head.packed, *workspace_);
      } else {
        backend().HeadOfTokens(batch, norm(), head.packed, ids.data(), *workspace_);
      }
    });
    return ReadRows(backend(), workspace_->logits, std::ssize(rows));
  }

  Row HeadRows(const std::vector<int32_t>& tokens) const {
    if (tokens.empty()) return embedding_->values;
    Row rows;
    for (const int32_t id : tokens)
      rows.insert(rows.end(), embedding_->At(id), embedding_->At(id + 1));
    return rows;
  }

  std::unique_ptr<TestMatrix> embedding_;
  Row norm_;
  std::unique_ptr<DeviceArray<float>> device_norm_;
  std::unique_ptr<Workspace> workspace_;
  std::vector<int32_t> tokens_;
  std::unique_ptr<BatchArrays> arrays_;
};

TEST_P(HeadTest, GivesLogitsOfTheRowsAskedForInTheirOrder) {
  for (const std::vector<int32_t>& rows :
       {std::vector<int32_t>{10, 0, 6}, {3}, {5, 5}, {10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}}) {
    std::vector<Numbers> expected;
    for (const int32_t row : rows) {
      const Row residual(embedding_->At(tokens_[row]), embedding_->At(tokens_[row] + 1));
      expected.push_back(embedding_->TimesNorm(residual, norm_, 1e-5));
    }
    EXPECT_LT(RelativeError(Logits(rows), expected), 1e-6);
  }
}

TEST_P(HeadTest, MayBeAskedForNone) { EXPECT_TRUE(Logits({}).empty()); }

// Bit for bit what the whole head says of its tokens, in any place of the row, and the floor
// everywhere else, whatever stood there before.
TEST_P(HeadTest, OfTokensGivesTheirLogitsAndNoOthers) {
  const std::vector<int32_t> rows = {10, 0, 6};
  const Rows whole = Logits(rows);
  std::vector<int32_t> all(kVocabulary);
  for (int id = 0; id < kVocabulary; ++id) all[id] = id;
  const std::vector<std::vector<int32_t>> lists = {{7},
                                                   {0},
                                                   {kVocabulary - 1},
                                                   {0, 1, 2, 3, 30, 31, 48},
                                                   {0, kVocabulary - 1},
                                                   {20, 21},
                                                   {all.begin() + 13, all.end()},
                                                   all};
  for (const std::vector<int32_t>& tokens : lists) {
    const Rows logits = Logits(rows, tokens);
    for (size_t row = 0; row < rows.size(); ++row) {
      Row expected(kVocabulary, kUnproposedLogit);
      for (const int32_t id : tokens) expected[id] = whole[row][id];
      EXPECT_TRUE(SameBits(logits[row], expected))
          << tokens.size() << " tokens from " << tokens[0] << ", row " << row;
    }
  }
}

TEST_P(HeadTest, OfTokensRowsDoNotKnowTheirCompany) {
  const std::vector<int32_t> tokens = {0, 4, 17, 18, 40};
  const Rows together = Logits({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, tokens);
  for (int32_t row = 0; row < kRows; ++row) {
    EXPECT_TRUE(SameBits(Logits({row}, tokens)[0], together[row])) << row;
  }
}

// Drafts drawn from such a row: of the proposed tokens only, however high the temperature; where
// they are forbidden, any of the others.
TEST_P(HeadTest, UnproposedTokensAreDrawnOnlyWhereNothingElseIsLeft) {
  const std::vector<int32_t> proposed = {3, 4, 17};
  Logits({10}, proposed);
  std::vector<SamplingState> states(kDraws);
  for (int i = 0; i < kDraws; ++i) {
    states[i].temperature = 100;
    states[i].seed = i;
  }
  const auto draw = [&](const Row& bias) {
    const DeviceArray<SamplingState> device_states(backend(), states);
    const DeviceArray<float> device_bias(backend(), bias);
    std::vector<int32_t> numbers(kDraws);
    for (int i = 0; i < kDraws; ++i) numbers[i] = i;
    const DeviceArray<int32_t> slots(backend(), numbers), zeros(backend(), kDraws),
        nowhere(backend(), std::vector<int32_t>(kDraws, -1)), drawn(backend(), kDraws);
    SamplingTables tables;
    tables.states = device_states.data();
    tables.bias = device_bias.data();
    tables.vocabulary = tables.padded_vocabulary = kVocabulary;
    DraftSampling request;
    request.sequences = kDraws;
    request.slot = request.token_row = slots.data();
    request.logit_row = request.position = zeros.data();
    request.tokens = drawn.data();
    request.next_row = nowhere.data();
    RunRound(backend(), [&] { backend().SampleDrafts(request, tables, *workspace_); });
    std::vector<int> seen(kVocabulary);
    for (const int32_t id : drawn.Read()) ++seen.at(id);
    return seen;
  };
  Row bias(kVocabulary);
  std::vector<int> seen = draw(bias);
  for (int id = 0; id < kVocabulary; ++id) {
    EXPECT_EQ(seen[id] > 0, id == 3 || id == 4 || id == 17) << id;
  }
  for (const int32_t id : proposed) bias[id] = -kInfinity;
  for (SamplingState& state : states) state.bias_row = 0;
  seen = draw(bias);
  for (int id = 0; id < kVocabulary; ++id) {
    EXPECT_EQ(seen[id] > 0, id != 3 && id != 4 && id != 17) << id;
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, HeadTest, ::testing::ValuesIn(TestedVariants()), NameOfVariant);

}  // namespace
}  // namespace mambad::kernels
