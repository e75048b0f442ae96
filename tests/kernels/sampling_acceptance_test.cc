// What becomes of drafts: how many are kept, that they change no token, and what comes out of
// shared noise (invariants 2 to 4).

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/sampling.h"
#include "tests/kernels/sampling_step.h"

namespace mambad::kernels {
namespace {

// ---- acceptance ---------------------------------------------------------------------------------

// Wilson-Hilferty: chi-square with `freedom` degrees as a standard normal number.
double ChiSquareScore(double chi_square, int freedom) {
  const double v = 2.0 / (9.0 * freedom);
  return (std::cbrt(chi_square / freedom) - (1 - v)) / std::sqrt(v);
}

enum class Proposal { kPlain, kEqual, kBad, kDisjoint, kCertain, kCertainImpossible };

// Draws the first two tokens many times by speculation with k = 3 (or plainly) and compares with
// their exact joint distribution, penalties included.
void ExpectTargetDistribution(const SamplingState& parameters, Proposal proposal, int threads) {
  constexpr int kVocabulary = 7, kPadded = 16, kDrafts = 3, kSequences = 200, kRounds = 250;
  const std::vector<float> base = {1.5f, 0.2f, -0.4f, 0.9f, -2.0f, 0.5f, -30.0f};
  const auto target = [&](int previous) {
    std::vector<float> x = base;
    if (previous >= 0) x[previous] -= 0.8f, x[(previous + 2) % kVocabulary] += 0.7f;
    return x;
  };
  SamplingState state = parameters;
  const std::vector<int32_t> no_counts(kVocabulary, 0);
  const auto p1 = Distribution(ProcessedLogits(target(-1).data(), kVocabulary, state, nullptr,
                                               no_counts.data(), {}, 10),
                               state)
                      .p;
  std::map<std::pair<int, int>, double> exact, seen;
  for (int a = 0; a < kVocabulary; ++a) {
    const auto p2 = Distribution(ProcessedLogits(target(a).data(), kVocabulary, state, nullptr,
                                                 no_counts.data(), {a}, 11),
                                 state)
                        .p;
    for (int b = 0; b < kVocabulary; ++b) exact[{a, b}] = p1[a] * p2[b];
  }
  const int drafts = proposal == Proposal::kPlain ? 0 : kDrafts;
  const bool certain = proposal == Proposal::kCertain || proposal == Proposal::kCertainImpossible;
  for (int round = 0; round < kRounds; ++round) {
    Step step(kSequences, kVocabulary, kPadded, threads);
    std::vector<int> history(kSequences * 2, -1), known(kSequences, 0);
    for (int s = 0; s < kSequences; ++s) {
      step.states[s] = state;
      step.states[s].seed = uint64_t(round) * kSequences + s + (uint64_t(proposal) << 40);
      if (state.counts_row >= 0) step.states[s].counts_row = s;
    }
    while (*std::min_element(known.begin(), known.end()) < 2) {
      for (int s = 0; s < kSequences; ++s) {
        step.drafts[s] = drafts;
        step.position[s] = 10 + known[s];
        step.limit[s] = kTokens;
      }
      for (int i = 0; i < drafts; ++i) {
        std::vector<float> draft_logits(kSequences * kPadded, 40.0f);
        for (int s = 0; s < kSequences; ++s) {
          const int previous = i > 0          ? step.tokens[step.row[s] + i]
                               : known[s] > 0 ? history[2 * s + known[s] - 1]
                                              : -1;
          std::vector<float> x = target(previous);
          if (proposal == Proposal::kBad) std::reverse(x.begin(), x.end());
          if (proposal == Proposal::kDisjoint)
            std::fill(x.begin(), x.end(), -kInfinity), x[6] = 1, x[4] = 0.5f;
          std::copy(x.begin(), x.end(), draft_logits.begin() + s * kPadded);
          if (certain) step.tokens[step.row[s] + 1 + i] = proposal == Proposal::kCertain ? 3 : 6;
        }
        if (!certain) step.Draft(i, draft_logits);
      }
      for (int s = 0; s < kSequences; ++s) {
        for (int i = 0; i <= drafts; ++i) {
          const int previous = i > 0          ? step.tokens[step.row[s] + i]
                               : known[s] > 0 ? history[2 * s + known[s] - 1]
                                              : -1;
          step.SetLogits(s, i, target(previous));
        }
      }
      step.Accept();
      for (int s = 0; s < kSequences; ++s) {
        if (proposal == Proposal::kEqual) {
          ASSERT_EQ(step.accepted[s], drafts);
        }
        for (int i = 0; i < step.kept[s] && known[s] < 2; ++i)
          history[2 * s + known[s]++] = step.out[s * kTokens + i];
      }
    }
    for (int s = 0; s < kSequences; ++s) ++seen[{history[2 * s], history[2 * s + 1]}];
  }
  double chi_square = 0, rare_expected = 0, rare_seen = 0;
  int cells = 0;
  for (const auto& [pair, probability] : exact) {
    const double expected = probability * kSequences * kRounds, got = seen[pair];
    if (probability == 0) {
      ASSERT_EQ(got, 0) << pair.first << ", " << pair.second << " is impossible";
    }
    if (expected < 10) {
      rare_expected += expected;
      rare_seen += got;
      continue;
    }
    ++cells;
    chi_square += (got - expected) * (got - expected) / expected;
  }
  if (rare_expected >= 10)
    ++cells, chi_square += std::pow(rare_seen - rare_expected, 2) / rare_expected;
  ASSERT_GT(cells, 1);
  EXPECT_LT(ChiSquareScore(chi_square, cells - 1), 3.5)
      << chi_square << " over " << cells << " cells";
}

class SampledDistributionTest : public ::testing::TestWithParam<Proposal> {};

// Invariant 4 of the design: sampled output has the target's distribution, whatever was drafted.
TEST_P(SampledDistributionTest, Invariant4SampledOutputHasTheTargetsDistribution) {
  SamplingState state;
  state.temperature = 0.8f;
  ExpectTargetDistribution(state, GetParam(), 1);
}

TEST_P(SampledDistributionTest, Invariant4WithTopKTopPMinP) {
  SamplingState state;
  state.temperature = 1.3f;
  state.top_k = 5;
  state.top_p = 0.9f;
  state.min_p = 0.1f;
  ExpectTargetDistribution(state, GetParam(), 2);
}

TEST_P(SampledDistributionTest, Invariant4WithPenalties) {
  SamplingState state;
  state.temperature = 1.0f;
  state.repetition_penalty = 1.5f;
  state.presence_penalty = 0.4f;
  state.frequency_penalty = 0.3f;
  state.counts_row = 0;
  state.top_p = 0.95f;
  ExpectTargetDistribution(state, GetParam(), 1);
}

INSTANTIATE_TEST_SUITE_P(Proposals, SampledDistributionTest,
                         ::testing::Values(Proposal::kPlain, Proposal::kEqual, Proposal::kBad,
                                           Proposal::kDisjoint, Proposal::kCertain,
                                           Proposal::kCertainImpossible));

// Chances of a race's outcomes when target and draft race with the same noise, p and q normalised:
// both pick i with probability 1 / sum_j max(p_j / p_i, q_j / q_i).
double BothPick(const std::vector<double>& p, const std::vector<double>& q, int i) {
  if (p[i] == 0 || q[i] == 0) return 0;
  double sum = 0;
  for (size_t j = 0; j < p.size(); ++j) sum += std::max(p[j] / p[i], q[j] / q[i]);
  return 1 / sum;
}

struct Sampler {
  const char* name;
  SamplingState state;
};
std::vector<Sampler> Samplers() {
  std::vector<Sampler> all;
  for (const float temperature : {0.3f, 0.7f, 1.0f, 1.3f}) {
    SamplingState plain;
    plain.temperature = temperature;
    all.push_back({"temperature alone", plain});
    SamplingState cut = plain;
    cut.top_k = 6, cut.top_p = 0.97f, cut.min_p = 0.01f;
    all.push_back({"top_k, top_p, min_p", cut});
    SamplingState penalised = plain;
    penalised.repetition_penalty = 1.3f, penalised.presence_penalty = 0.3f;
    penalised.frequency_penalty = 0.2f, penalised.counts_row = 0, penalised.bias_row = 0;
    all.push_back({"penalties and bias", penalised});
  }
  return all;
}

// Noise that two models share must not lift the tokens that they agree on: how often each token
// comes where its draft was accepted, and where it was rejected, is what the two distributions say.
TEST(SamplingTest, Invariant4HoldsWhereDraftsWereAcceptedAndWhereRejected) {
  constexpr int kVocabulary = 9, kSequences = 500, kRounds = 80;
  const std::vector<float> target = {1.5f, 0.2f, -0.4f, 0.9f, -2.0f, 0.5f, -1.1f, 0, 0.3f};
  std::vector<float> draft = target;
  for (int id = 0; id < kVocabulary; ++id) draft[id] += 0.9f * std::sin(2.0f * id);
  for (const Sampler& sampler : Samplers()) {
    SCOPED_TRACE(::testing::Message() << sampler.name << ", " << sampler.state.temperature);
    Step step(kSequences, kVocabulary);
    for (int s = 0; s < kSequences; ++s) {
      for (int id = 0; id < kVocabulary; ++id) {
        step.bias[size_t(s) * step.V + id] = 0.25f * (id % 3);
        step.counts[size_t(s) * step.V + id] = id % 4 == 1 ? 2 : 0;
      }
    }
    const std::vector<int32_t> before = step.counts;
    const auto chances = [&](const std::vector<float>& logits) {
      return Distribution(ProcessedLogits(logits.data(), kVocabulary, sampler.state,
                                          step.bias.data(), before.data(), {}, 10),
                          sampler.state)
          .p;
    };
    const std::vector<double> p = chances(target), q = chances(draft);
    std::vector<int> accepted(kVocabulary), rejected(kVocabulary);
    for (int round = 0; round < kRounds; ++round) {
      step.counts = before;
      std::vector<float> draft_logits;
      for (int s = 0; s < kSequences; ++s) {
        step.states[s] = sampler.state;
        step.states[s].seed = static_cast<uint64_t>(round) * kSequences + s;
        step.states[s].sample = round % 3;
        if (sampler.state.counts_row >= 0) step.states[s].counts_row = step.states[s].bias_row = s;
        step.position[s] = 10;
        step.drafts[s] = 1;
        draft_logits.insert(draft_logits.end(), draft.begin(), draft.end());
        for (int i = 0; i < 2; ++i) step.SetLogits(s, i, target);
      }
      step.Draft(0, draft_logits);
      step.Accept();
      for (int s = 0; s < kSequences; ++s)
        ++(step.accepted[s] > 0 ? accepted : rejected)[step.out[s * kTokens]];
    }
    double chi_square = 0;
    int cells = 0;
    const auto compare = [&](double chance, int seen) {
      const double expected = chance * kSequences * kRounds;
      if (expected < 5) {
        EXPECT_LT(seen, 30);
        return;
      }
      chi_square += (seen - expected) * (seen - expected) / expected;
      ++cells;
    };
    for (int id = 0; id < kVocabulary; ++id) {
      const double both = BothPick(p, q, id);
      compare(both, accepted[id]);
      compare(p[id] - both, rejected[id]);
    }
    ASSERT_GT(cells, 3);
    EXPECT_LT(ChiSquareScore(chi_square, cells - 1), 3.5) << chi_square << " over " << cells;
  }
}

// Invariant 2 of the design, for sampling: drafts decide how many tokens a round keeps, never
// which.
TEST(SamplingTest, Invariant2DraftsKeepWhatPlainDecodingDraws) {
  constexpr int kVocabulary = 5, kPlaces = 4, kSequences = 300;
  const auto logits_at = [](int sequence, int place) {
    std::vector<float> x(kVocabulary);
    for (int id = 0; id < kVocabulary; ++id) {
      x[id] = std::sin(1.7f * sequence + 0.9f * place + 2.3f * id);
    }
    return x;
  };
  const auto prepare = [&](Step& step, int place, int drafts) {
    for (int s = 0; s < kSequences; ++s) {
      step.states[s].temperature = 0.7f;
      step.states[s].seed = 1000 + s;
      step.position[s] = 20 + place;
      step.drafts[s] = drafts;
      step.limit[s] = kTokens;
      for (int i = 0; i <= drafts; ++i) step.SetLogits(s, i, logits_at(s, place + i));
    }
  };
  Step plain(kSequences, kVocabulary), drafted(kSequences, kVocabulary);
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

TEST(SamplingTest, LimitsCutAfterAcceptance) {
  Step step(1, 5);
  for (int i = 0; i < 4; ++i) step.SetLogits(0, i, {0, 0, 9, 0, 0});
  std::fill(step.tokens.begin(), step.tokens.end(), 2);
  step.drafts[0] = 3;
  step.limit[0] = 2;
  step.Accept();
  EXPECT_EQ(step.accepted[0], 3);
  EXPECT_EQ(step.kept[0], 2);
  EXPECT_EQ(step.stopped[0], 0);
}

TEST(SamplingTest, GreedyKeepsDraftsUntilTheFirstThatIsNotTheArgmax) {
  Step step(1, 5, 8);
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

TEST(SamplingTest, DraftsOutsideTheVocabularyAreRejected) {
  for (const float temperature : {0.0f, 1.0f}) {
    for (const int32_t draft : {-1, 5, 7, 1 << 30}) {
      Step step(1, 5, 8);
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

// ---- invariant 3 --------------------------------------------------------------------------------

struct Outcome {
  std::vector<int32_t> tokens;
  std::vector<float> numbers;
  bool operator==(const Outcome&) const = default;
};

// Sequences of every kind in one batch of chosen members; one outcome each.
std::vector<Outcome> RunBatch(const std::vector<int>& members, int vocabulary, int threads) {
  const int V = vocabulary + 13, n = static_cast<int>(members.size());
  Step step(n, vocabulary, V, threads);
  std::vector<float> draft_logits(size_t(n) * V);
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

TEST(SamplingTest, LogProbabilitiesAreWhatEachSlotAsksFor) {
  Step step(3, /*vocabulary=*/20);
  const int32_t asked[] = {-1, 0, 2};
  for (int s = 0; s < 3; ++s) {
    step.states[s].alternatives = asked[s];
    for (int id = 0; id < 20; ++id) step.Logits(s, 0)[id] = static_cast<float>((7 * id + s) % 20);
  }
  step.AcceptAsAsked(/*with_logprobs=*/false);
  for (int s = 0; s < 3; ++s) EXPECT_TRUE(std::isnan(step.logprobs[s * kTokens]));
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

TEST(SamplingTest, EntriesThatAreNotThereAreNothing) {
  Step step(4, /*vocabulary=*/20);
  step.slot[1] = step.slot[3] = -1;
  std::fill(step.kept.begin(), step.kept.end(), -7);
  step.Accept();
  for (int s = 0; s < 4; ++s) EXPECT_EQ(step.kept[s] == -7, step.slot[s] < 0) << s;
}

// Invariant 3 of the design, for sampling: neither company nor threads matter, bit for bit.
TEST(SamplingTest, Invariant3OutputDoesNotDependOnBatchOrThreads) {
  for (const int vocabulary : {1000, 40000}) {  // the larger is split over threads when alone
    std::vector<int> everyone(16);
    std::iota(everyone.begin(), everyone.end(), 1);
    const std::vector<Outcome> together = RunBatch(everyone, vocabulary, 1);
    EXPECT_EQ(RunBatch(everyone, vocabulary, 3), together);
    for (size_t s = 0; s < everyone.size(); ++s) {
      for (const int threads : {1, 2, 5}) {
        EXPECT_EQ(RunBatch({everyone[s]}, vocabulary, threads)[0], together[s])
            << "member " << s << ", " << threads;
      }
    }
    EXPECT_EQ(RunBatch({9, 2, 14}, vocabulary, 2)[1], together[1]);
  }
}

}  // namespace
}  // namespace mambad::kernels
