// Backend::SampleDrafts and Accept: sampled tokens have the target's distribution, whatever was
// drafted (invariant 4).

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend/sampling_step.h"
#include "tests/kernels/backend/tested_backend.h"
#include "tests/kernels/sampling_reference.h"

namespace mambad::kernels {
namespace {

// Wilson-Hilferty: chi-square with `freedom` degrees as a standard normal number.
double ChiSquareScore(double chi_square, int freedom) {
  const double v = 2.0 / (9.0 * freedom);
  return (std::cbrt(chi_square / freedom) - (1 - v)) / std::sqrt(v);
}

enum class Proposal { kPlain, kEqual, kBad, kDisjoint, kCertain, kCertainImpossible };

// Draws the first two tokens many times by speculation with k = 3 (or plainly) and compares with
// their exact joint distribution, penalties included.
void ExpectTargetDistribution(Backend& backend, const SamplingState& parameters,
                              Proposal proposal) {
  constexpr int kVocabulary = 7, kPadded = 16, kDrafts = 3, kSequences = 200, kRounds = 250;
  const Row base = {1.5f, 0.2f, -0.4f, 0.9f, -2.0f, 0.5f, -30.0f};
  const auto target = [&](int previous) {
    Row x = base;
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
    SamplingStep step(backend, kSequences, kVocabulary, kPadded, kDrafts + 1);
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
        Row draft_logits(kSequences * kPadded, 40.0f);
        for (int s = 0; s < kSequences; ++s) {
          const int previous = i > 0          ? step.tokens[step.row[s] + i]
                               : known[s] > 0 ? history[2 * s + known[s] - 1]
                                              : -1;
          Row x = target(previous);
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

struct ProposalCase {
  const char* name;
  Proposal proposal;
};
class SampledDistributionTest : public OnBackend<std::tuple<std::string, ProposalCase>> {
 protected:
  Proposal proposal() const { return std::get<1>(GetParam()).proposal; }
};

// Invariant 4 of the design: sampled output has the target's distribution, whatever was drafted.
TEST_P(SampledDistributionTest, Invariant4SampledOutputHasTheTargetsDistribution) {
  SamplingState state;
  state.temperature = 0.8f;
  ExpectTargetDistribution(backend(), state, proposal());
}

TEST_P(SampledDistributionTest, Invariant4WithTopKTopPMinP) {
  SamplingState state;
  state.temperature = 1.3f;
  state.top_k = 5;
  state.top_p = 0.9f;
  state.min_p = 0.1f;
  ExpectTargetDistribution(backend(), state, proposal());
}

TEST_P(SampledDistributionTest, Invariant4WithPenalties) {
  SamplingState state;
  state.temperature = 1.0f;
  state.repetition_penalty = 1.5f;
  state.presence_penalty = 0.4f;
  state.frequency_penalty = 0.3f;
  state.counts_row = 0;
  state.top_p = 0.95f;
  ExpectTargetDistribution(backend(), state, proposal());
}

INSTANTIATE_TEST_SUITE_P(
    Backends, SampledDistributionTest,
    ::testing::Combine(::testing::ValuesIn(TestedDevices()),
                       ::testing::Values(ProposalCase{"Plain", Proposal::kPlain},
                                         ProposalCase{"Equal", Proposal::kEqual},
                                         ProposalCase{"Bad", Proposal::kBad},
                                         ProposalCase{"Disjoint", Proposal::kDisjoint},
                                         ProposalCase{"Certain", Proposal::kCertain},
                                         ProposalCase{"CertainImpossible",
                                                      Proposal::kCertainImpossible})),
    NameOfShape<ProposalCase>);

class CoupledDraftsTest : public OnBackend<> {};
INSTANTIATE_TEST_SUITE_P(Backends, CoupledDraftsTest, ::testing::ValuesIn(TestedDevices()),
                         NameOfVariant);

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
TEST_P(CoupledDraftsTest, Invariant4HoldsWhereDraftsWereAcceptedAndWhereRejected) {
  constexpr int kVocabulary = 9, kSequences = 500, kRounds = 80;
  const Row target = {1.5f, 0.2f, -0.4f, 0.9f, -2.0f, 0.5f, -1.1f, 0, 0.3f};
  Row draft = target;
  for (int id = 0; id < kVocabulary; ++id) draft[id] += 0.9f * std::sin(2.0f * id);
  for (const Sampler& sampler : Samplers()) {
    SCOPED_TRACE(::testing::Message() << sampler.name << ", " << sampler.state.temperature);
    SamplingStep step(backend(), kSequences, kVocabulary, 0, 2);
    for (int s = 0; s < kSequences; ++s) {
      for (int id = 0; id < kVocabulary; ++id) {
        step.bias[size_t(s) * step.V + id] = 0.25f * (id % 3);
        step.counts[size_t(s) * step.V + id] = id % 4 == 1 ? 2 : 0;
      }
    }
    const std::vector<int32_t> before = step.counts;
    const auto chances = [&](const Row& logits) {
      return Distribution(ProcessedLogits(logits.data(), kVocabulary, sampler.state,
                                          step.bias.data(), before.data(), {}, 10),
                          sampler.state)
          .p;
    };
    const std::vector<double> p = chances(target), q = chances(draft);
    std::vector<int> accepted(kVocabulary), rejected(kVocabulary);
    for (int round = 0; round < kRounds; ++round) {
      step.counts = before;
      Row draft_logits;
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

}  // namespace
}  // namespace mambad::kernels
