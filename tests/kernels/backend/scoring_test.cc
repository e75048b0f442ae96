// Log-probabilities: Backend::Score, and what Accept says of the tokens that it keeps.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend/sampling_step.h"
#include "tests/kernels/backend/tested_backend.h"

namespace mambad::kernels {
namespace {

class ScoringTest : public OnBackend<> {};
INSTANTIATE_TEST_SUITE_P(Variants, ScoringTest, ::testing::ValuesIn(TestedVariants()),
                         NameOfVariant);

// Entry `at` of a step's log-probabilities is what the row says of `token`.
void ExpectScored(const SamplingStep& step, int at, const float* logits, int32_t token,
                  int alternatives) {
  double total = 0;
  for (int id = 0; id < step.vocabulary; ++id) total += std::exp(double{logits[id]});
  if (token < step.vocabulary) {
    EXPECT_NEAR(step.logprobs[at], logits[token] - std::log(total), 1e-5);
  } else {
    EXPECT_EQ(step.logprobs[at], -kInfinity);
  }
  std::vector<int> order(step.vocabulary);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  for (int i = 0; i < alternatives; ++i) {
    const int other = at * kMaxAlternatives + i;
    if (i < step.vocabulary) {
      EXPECT_EQ(step.alternative_ids[other], order[i]);
      EXPECT_NEAR(step.alternative_logprobs[other], logits[order[i]] - std::log(total), 1e-5);
    } else {
      EXPECT_EQ(step.alternative_ids[other], -1);
      EXPECT_EQ(step.alternative_logprobs[other], -kInfinity);
    }
  }
}

TEST_P(ScoringTest, SaysTheLogProbabilityOfGivenTokens) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0, 4);
  for (const int vocabulary : {1, 5, 40, 5000}) {
    SamplingStep step(backend(), 3, vocabulary, vocabulary + 8, 2);
    const std::vector<int32_t> rows = {0, 2, 4}, tokens = {0, vocabulary - 1, vocabulary};
    for (int s = 0; s < 3; ++s) {
      for (int id = 0; id < vocabulary; ++id) {
        step.Logits(s, 0)[id] = std::round(8 * normal(random)) / 8;
      }
    }
    step.Score(rows, tokens, 7);
    for (int s = 0; s < 3; ++s) ExpectScored(step, s, step.Logits(s, 0), tokens[s], 7);
    const std::vector<int32_t> ids = step.alternative_ids;
    const Row before = step.logprobs;
    step.Score(rows, tokens, 0);
    EXPECT_EQ(step.alternative_ids, ids);
    EXPECT_TRUE(SameBits(step.logprobs, before));
  }
}

// Of the logits as they are: bias, penalties, temperature and cuts do not matter.
TEST_P(ScoringTest, AcceptIgnoresSamplingParameters) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal(0, 3);
  constexpr int kSequences = 12, kVocabulary = 60;
  SamplingStep step(backend(), kSequences, kVocabulary, kVocabulary + 4, 3);
  for (int s = 0; s < kSequences; ++s) {
    SamplingState& state = step.states[s];
    state.temperature = 0.5f * (s % 4);
    state.top_k = s % 3;
    state.repetition_penalty = 2;
    state.counts_row = state.bias_row = s;
    for (int id = 0; id < kVocabulary; ++id) {
      step.counts[size_t(s) * step.V + id] = id % 3;
      step.bias[size_t(s) * step.V + id] = normal(random);
      for (int i = 0; i < 3; ++i) step.Logits(s, i)[id] = normal(random);
    }
    step.drafts[s] = s % 3;
  }
  for (int i = 0; i < 2; ++i) {  // drafts from the target's own rows
    Row draft(size_t(kSequences) * step.V);
    for (int s = 0; s < kSequences; ++s) {
      std::copy_n(step.Logits(s, i), step.V, draft.begin() + size_t(s) * step.V);
    }
    step.Draft(i, draft);
  }
  step.Accept(5);
  int scored = 0;
  for (int s = 0; s < kSequences; ++s) {
    for (int i = 0; i < step.kept[s]; ++i, ++scored) {
      const int at = s * kTokens + i;
      ExpectScored(step, at, step.Logits(s, i), step.out[at], 5);
    }
  }
  EXPECT_GT(scored, kSequences);
  const Row before = step.logprobs;
  step.Accept(-1);
  EXPECT_TRUE(SameBits(step.logprobs, before)) << "not asked for";
}

TEST_P(ScoringTest, AcceptSaysWhatEachSlotAsksFor) {
  SamplingStep step(backend(), 3, 20);
  const int32_t asked[] = {-1, 0, 2};
  for (int s = 0; s < 3; ++s) {
    for (int id = 0; id < 20; ++id) step.Logits(s, 0)[id] = static_cast<float>((7 * id + s) % 20);
  }
  step.AcceptAsAsked(/*with_logprobs=*/false);
  for (int s = 0; s < 3; ++s) EXPECT_TRUE(std::isnan(step.logprobs[s * kTokens]));
  for (int s = 0; s < 3; ++s) step.states[s].alternatives = asked[s];
  step.AcceptAsAsked(/*with_logprobs=*/true);
  for (int s = 0; s < 3; ++s) {
    const int at = s * kTokens;
    EXPECT_EQ(std::isnan(step.logprobs[at]), asked[s] < 0) << s;
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(step.alternative_ids[at * kMaxAlternatives + i] >= 0, i < asked[s])
          << s << ", " << i;
    }
  }
}

// Invariant 3: a row's score does not depend on the rows that it is asked with.
TEST_P(ScoringTest, RowsDoNotKnowTheirCompany) {
  std::mt19937 random(8);
  std::normal_distribution<float> normal(0, 4);
  for (const int vocabulary : {70, 40000}) {  // the larger is split over threads when alone
    constexpr int kRows = 6;
    std::vector<int32_t> rows(kRows), tokens(kRows);
    std::iota(rows.begin(), rows.end(), 0);
    Row logits;
    for (int i = 0; i < kRows; ++i) {
      tokens[i] = static_cast<int32_t>(random() % vocabulary);
      for (int id = 0; id < vocabulary; ++id) logits.push_back(normal(random));
    }
    const auto score = [&](int threads, const std::vector<int32_t>& of) {
      SamplingStep step(tested().WithThreads(threads), kRows, vocabulary, 0, 1);
      step.logits = logits;
      std::vector<int32_t> ids;
      for (const int32_t row : of) ids.push_back(tokens[row]);
      step.Score(of, ids, 4);
      Row result;
      for (size_t i = 0; i < of.size(); ++i) {
        result.push_back(step.logprobs[i]);
        for (int j = 0; j < 4; ++j) {
          result.push_back(step.alternative_logprobs[i * kMaxAlternatives + j]);
          result.push_back(static_cast<float>(step.alternative_ids[i * kMaxAlternatives + j]));
        }
      }
      return result;
    };
    const Row together = score(1, rows);
    EXPECT_TRUE(SameBits(score(3, rows), together));
    for (int32_t row = 0; row < kRows; ++row) {
      const auto begin = together.begin() + row * 9;
      EXPECT_TRUE(SameBits(score(1 + row % 3, {row}), Row(begin, begin + 9))) << row;
    }
  }
}

}  // namespace
}  // namespace mambad::kernels
