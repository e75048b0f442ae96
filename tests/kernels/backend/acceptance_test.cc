// Backend::SampleDrafts and Accept: what becomes of drafts. How many are kept, that they
// change no token (invariant 2), nor company and threads (invariant 3).

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend/sampling_step.h"
#include "tests/kernels/backend/tested_backend.h"
#include "tests/kernels/sampling_reference.h"

namespace mambad::kernels {
namespace {

class AcceptanceTest : public OnBackend<> {};
INSTANTIATE_TEST_SUITE_P(Backends, AcceptanceTest, ::testing::ValuesIn(TestedDevices()),
                         NameOfVariant);

// Invariant 2 of the design, for sampling: drafts decide how many tokens a round keeps, never
// which.
TEST_P(AcceptanceTest, Invariant2DraftsKeepWhatPlainDecodingDraws) {
  constexpr int kVocabulary = 5, kPlaces = 4, kSequences = 300;
  const auto logits_at = [](int sequence, int place) {
    Row x(kVocabulary);
    for (int id = 0; id < kVocabulary; ++id) {
      x[id] = std::sin(1.7f * sequence + 0.9f * place + 2.3f * id);
    }
    return x;
  };
  const auto prepare = [&](SamplingStep& step, int place, int drafts) {
    for (int s = 0; s < kSequences; ++s) {
      step.states[s].temperature = 0.7f;
      step.states[s].seed = 1000 + s;
      step.position[s] = 20 + place;
      step.drafts[s] = drafts;
      step.limit[s] = kTokens;
      for (int i = 0; i <= drafts; ++i) step.SetLogits(s, i, logits_at(s, place + i));
    }
  };
  SamplingStep plain(backend(), kSequences, kVocabulary, 0, kPlaces),
      drafted(backend(), kSequences, kVocabulary, 0, kPlaces);
  std::vector<std::vector<int32_t>> wanted(kSequences);
  for (int place = 0; place < kPlaces; ++place) {
    prepare(plain, place, 0);
    plain.Accept();
    for (int s = 0; s < kSequences; ++s) wanted[s].push_back(plain.out[s * kTokens]);
  }
  prepare(drafted, 0, kPlaces - 1);
  for (int s = 0; s < kSequences; ++s) {
    // Right up to a place that differs by sequence, and wrong there.
    for (int i = 0; i < kPlaces - 1; ++i) {
      drafted.tokens[drafted.row[s] + 1 + i] = (wanted[s][i] + (i == s % kPlaces)) % kVocabulary;
    }
  }
  drafted.Accept();
  for (int s = 0; s < kSequences; ++s) {
    ASSERT_EQ(drafted.kept[s], s % kPlaces + 1) << s;
    for (int i = 0; i < drafted.kept[s]; ++i) {
      ASSERT_EQ(drafted.out[s * kTokens + i], wanted[s][i]) << s << ", " << i;
    }
  }
}

TEST_P(AcceptanceTest, LimitsCutAfterAcceptance) {
  SamplingStep step(backend(), 1, 5);
  for (int i = 0; i < 4; ++i) step.SetLogits(0, i, {0, 0, 9, 0, 0});
  std::fill(step.tokens.begin(), step.tokens.end(), 2);
  step.drafts[0] = 3;
  step.limit[0] = 2;
  step.Accept();
  EXPECT_EQ(step.accepted[0], 3);
  EXPECT_EQ(step.kept[0], 2);
  EXPECT_EQ(step.stopped[0], 0);
}

TEST_P(AcceptanceTest, GreedyKeepsDraftsUntilTheFirstThatIsNotTheArgmax) {
  SamplingStep step(backend(), 1, 5, 8);
  step.SetLogits(0, 0, {0, 3, 3, 0, 0});  // lowest id of equals
  step.SetLogits(0, 1, {0, 0, 0, 4, 0});
  step.SetLogits(0, 2, {9, 0, 0, 4, 0});
  step.drafts[0] = 2;
  step.tokens[1] = 1;
  step.tokens[2] = 4;
  step.Accept();
  EXPECT_EQ(step.accepted[0], 1);
  EXPECT_EQ(step.kept[0], 2);
  EXPECT_EQ(step.out[0], 1);
  EXPECT_EQ(step.out[1], 3);
}

TEST_P(AcceptanceTest, DraftsOutsideTheVocabularyAreRejected) {
  for (const float temperature : {0.0f, 1.0f}) {
    for (const int32_t draft : {-1, 5, 7, 1 << 30}) {
      SamplingStep step(backend(), 1, 5, 8);
      step.states[0].temperature = temperature;
      step.states[0].counts_row = 0;
      step.states[0].presence_penalty = 1;
      for (int i = 0; i < 2; ++i) step.SetLogits(0, i, {0, 0, 9, 0, 0});
      step.drafts[0] = 1;
      step.tokens[1] = draft;
      step.Accept();
      EXPECT_EQ(step.accepted[0], 0);
      EXPECT_EQ(step.kept[0], 1);
      EXPECT_LT(step.out[0], 5);
    }
  }
}

// A draft goes where it is told to, and to the next draft's batch where it has a place there; the
// sequence without a row of logits draws nothing.
TEST_P(AcceptanceTest, DraftsGoWhereTheyAreTold) {
  SamplingStep step(backend(), 3, 5, 8, 3);
  step.row = {6, 0, 3};
  std::fill(step.tokens.begin(), step.tokens.end(), -1);
  const Row draft = {0, 9,  0,  0,  0, 50, 50, 50, 0, 0,  9,  0,
                     0, 50, 50, 50, 0, 0,  0,  9,  0, 50, 50, 50};
  std::vector<int32_t> next = {-1, -1, -1, -1};
  step.Draft(0, draft, {2, -1, 0}, {-1, 0, 3}, &next);
  EXPECT_EQ(step.tokens, std::vector<int32_t>({-1, -1, -1, -1, 1, -1, -1, 3, -1}));
  EXPECT_EQ(next, std::vector<int32_t>({-1, -1, -1, 1}));
  step.Draft(1, draft, {1, 0, -1}, {2, 0, 1}, &next);
  EXPECT_EQ(step.tokens, std::vector<int32_t>({-1, -1, 1, -1, 1, -1, -1, 3, 2}));
  EXPECT_EQ(next, std::vector<int32_t>({1, -1, 2, 1}));
}

// Slots, rows of logits and rows of tokens have nothing to do with the place in the batch.
TEST_P(AcceptanceTest, ArraysMayNameAnyPlaces) {
  SamplingStep step(backend(), 3, 6, 8, 3);
  step.slot = {2, 0, 1};
  step.begin = {3, 6, 0};
  step.row = {0, 6, 3};
  step.states[2].temperature = 1;  // the first sequence's: only token 5 is left
  step.states[2].bias_row = 1;
  for (int id = 0; id < 5; ++id) step.bias[step.V + id] = -kInfinity;
  step.states[0].stop_count = 1;  // the second's
  step.states[0].stop_ids[0] = 4;
  step.states[1].counts_row = 2;  // the third's
  for (int row = 0; row < 9; ++row) step.SetLogits(row / 3, row % 3, {0, 0, 1, 0, 2, 0});
  step.drafts = {2, 1, 2};
  step.tokens = {9, 5, 5, 9, 4, 2, 9, 4, 4};
  step.Accept();
  EXPECT_EQ(step.accepted, std::vector<int32_t>({2, 1, 1}));
  EXPECT_EQ(step.kept, std::vector<int32_t>({3, 1, 2}));
  EXPECT_EQ(step.stopped, std::vector<int32_t>({0, 1, 0}));
  EXPECT_EQ(step.out[0], 5);
  EXPECT_EQ(step.out[kTokens], 4);
  EXPECT_EQ(step.out[2 * kTokens + 1], 4);
  EXPECT_EQ(step.counts[2 * step.V + 4], 2);
}

TEST_P(AcceptanceTest, EntriesThatAreNotThereAreNothing) {
  SamplingStep step(backend(), 4, 20, 0, 2);
  step.slot = {2, -1, 0, -1};
  std::fill(step.kept.begin(), step.kept.end(), -7);
  step.Accept();
  for (int s = 0; s < 4; ++s) EXPECT_EQ(step.kept[s] == -7, step.slot[s] < 0) << s;
}

// ---- invariant 3 --------------------------------------------------------------------------------

struct Outcome {
  std::vector<int32_t> tokens;
  Row numbers;
  bool operator==(const Outcome&) const = default;
};

// Sequences of every kind in one batch of chosen members; one outcome each.
std::vector<Outcome> RunBatch(Backend& backend, const std::vector<int>& members, int vocabulary) {
  const int V = vocabulary + 13, n = static_cast<int>(members.size());
  SamplingStep step(backend, n, vocabulary, V, 4);
  Row draft_logits(size_t(n) * V);
  for (int s = 0; s < n; ++s) {
    std::mt19937 random(members[s]);
    std::normal_distribution<float> normal(0, 2);
    step.states[s] = RandomState(random, vocabulary);
    if (members[s] % 4 == 0) step.states[s].temperature = 0;
    step.states[s].seed = members[s];
    if (step.states[s].counts_row >= 0) step.states[s].counts_row = s;
    if (step.states[s].bias_row >= 0) step.states[s].bias_row = s;
    for (int i = 0; i < 50; ++i) step.counts[size_t(s) * V + random() % vocabulary] = 1;
    step.position[s] = 5 + members[s];
    step.drafts[s] = members[s] % 4;
    for (int i = 0; i < 4; ++i) {
      for (int id = 0; id < vocabulary; ++id) step.Logits(s, i)[id] = normal(random);
    }
  }
  for (int i = 0; i < 3; ++i) {
    for (int s = 0; s < n; ++s) {
      for (int id = 0; id < V; ++id)
        draft_logits[size_t(s) * V + id] = step.Logits(s, i)[id] + 0.1f * (id % 7);
    }
    step.Draft(i, draft_logits);
  }
  step.Accept(5);
  std::vector<Outcome> outcomes(n);
  for (int s = 0; s < n; ++s) {
    Outcome& outcome = outcomes[s];
    outcome.tokens = {step.accepted[s], step.kept[s]};
    for (int i = 0; i < step.kept[s]; ++i) {
      const int at = s * kTokens + i;
      outcome.tokens.push_back(step.out[at]);
      outcome.numbers.push_back(step.logprobs[at]);
      for (int j = 0; j < 5; ++j) {
        outcome.tokens.push_back(step.alternative_ids[at * kMaxAlternatives + j]);
        outcome.numbers.push_back(step.alternative_logprobs[at * kMaxAlternatives + j]);
      }
    }
    for (int i = 0; i < step.drafts[s]; ++i)
      outcome.tokens.push_back(step.tokens[step.row[s] + 1 + i]);
  }
  return outcomes;
}

// Invariant 3 of the design, for sampling: neither company nor threads matter, bit for bit.
TEST_P(AcceptanceTest, Invariant3OutputDoesNotDependOnBatchOrThreads) {
  for (const int vocabulary : {1000, 40000}) {  // the larger is split over threads when alone
    std::vector<int> everyone(16);
    std::iota(everyone.begin(), everyone.end(), 1);
    const auto run = [&](int threads, const std::vector<int>& members) {
      return RunBatch(tested().WithThreads(threads), members, vocabulary);
    };
    const std::vector<Outcome> together = run(1, everyone);
    EXPECT_EQ(run(3, everyone), together);
    for (size_t s = 0; s < everyone.size(); ++s) {
      for (const int threads : {1, 2, 5}) {
        EXPECT_EQ(run(threads, {everyone[s]})[0], together[s]) << "member " << s << ", " << threads;
      }
    }
    EXPECT_EQ(run(2, {9, 2, 14})[1], together[1]);
  }
}

}  // namespace
}  // namespace mambad::kernels
