#include "kernels/cpu/sampling.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/philox.h"
#include "kernels/cpu/token_distribution.h"

namespace mambad::kernels {
namespace {

using ::testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int kTokens = kMaxWindowRows + 1;

// One step's arrays, filled by hand: `sequences` sequences, slot s each, window rows of sequence s
// at s * kTokens.
struct Step {
  Step(int sequences, int vocabulary, int padded = 0, int threads = 1)
      : count(sequences),
        V(std::max(vocabulary, padded)),
        pool(std::make_unique<ThreadPool>(threads)) {
    states.resize(sequences);
    for (int s = 0; s < sequences; ++s) states[s].seed = 1000 + s;
    logits.assign(size_t(sequences) * kTokens * V, 50.0f);  // padding must not be sampled
    counts.assign(size_t(sequences) * V, 0);
    bias.assign(size_t(sequences) * V, 0.0f);
    tables = {states.data(), counts.data(), bias.data(), vocabulary, V};
    scratch = CreateSamplingScratch(threads, V);
    for (auto* array :
         {&slot, &begin, &drafts, &row, &limit, &accepted, &kept, &stopped, &position}) {
      array->assign(sequences, 0);
    }
    tokens.assign(sequences * kTokens, 0);
    out.assign(sequences * kTokens, -1);
    for (int s = 0; s < sequences; ++s) {
      slot[s] = s;
      begin[s] = row[s] = s * kTokens;
      limit[s] = kTokens;
      position[s] = 10 + s;
    }
    logprobs.assign(sequences * kTokens, kNaN);
    alternative_ids.assign(sequences * kTokens * kMaxAlternatives, -5);
    alternative_logprobs.assign(sequences * kTokens * kMaxAlternatives, kNaN);
  }

  float* Logits(int s, int window_row) {
    return logits.data() + (size_t(s) * kTokens + window_row) * V;
  }
  void SetLogits(int s, int window_row, const std::vector<float>& values) {
    std::copy(values.begin(), values.end(), Logits(s, window_row));
  }
  RowsView View() { return {logits.data(), count * kTokens, V, V}; }

  void Accept(int alternatives = -1) {
    const Acceptance request{count,           slot.data(),  begin.data(),
                             drafts.data(),   row.data(),   tokens.data(),
                             position.data(), limit.data(), alternatives};
    const AcceptanceResult result{accepted.data(),
                                  kept.data(),
                                  out.data(),
                                  stopped.data(),
                                  logprobs.data(),
                                  alternative_ids.data(),
                                  alternative_logprobs.data()};
    AcceptDrafts(*pool, request, tables, View(), result, scratch);
  }

  // Draws draft `step` of all sequences from `draft_logits` [sequences][V], at the position where
  // it belongs.
  void Draft(int step, std::vector<float>& draft_logits) {
    std::vector<int32_t> logit_row(count), at(count), place(count), next(count, -1);
    for (int s = 0; s < count; ++s) {
      logit_row[s] = s;
      at[s] = position[s] + step;
      place[s] = row[s] + 1 + step;
    }
    const DraftSampling request{count,         slot.data(),  logit_row.data(), at.data(),  step,
                                tokens.data(), place.data(), nullptr,          next.data()};
    SampleDraftTokens(*pool, request, tables, {draft_logits.data(), count, V, V}, scratch);
  }

  int count, V;
  std::unique_ptr<ThreadPool> pool;
  std::vector<SamplingState> states;
  std::vector<float> logits, bias, logprobs, alternative_logprobs;
  std::vector<int32_t> counts, slot, begin, drafts, row, limit, accepted, kept, stopped, position,
      tokens, out, alternative_ids;
  SamplingTables tables;
  SamplingScratch scratch;
};

// ---- the contract in doubles, by sorting --------------------------------------------------------

struct Reference {
  std::vector<double> p;
  bool ambiguous = false;  // a cut lies where rounding may decide
};

std::vector<double> ProcessedLogits(const float* logits, int vocabulary, const SamplingState& state,
                                    const float* bias, const int32_t* counts,
                                    const std::vector<int32_t>& window, int64_t position) {
  std::vector<double> x(vocabulary);
  for (int id = 0; id < vocabulary; ++id) {
    x[id] = double(logits[id]) + (state.bias_row >= 0 ? bias[id] : 0.0f);
    if (state.counts_row >= 0) {
      const auto drafted = std::count(window.begin(), window.end(), id);
      const double answered = double(counts[id] & 0x7fffffff) + double(drafted);
      if (counts[id] != 0 || drafted > 0) {
        x[id] = x[id] > 0 ? x[id] / state.repetition_penalty : x[id] * state.repetition_penalty;
      }
      if (answered > 0) x[id] -= state.frequency_penalty * answered + state.presence_penalty;
    }
    for (int i = 0; i < state.stop_count; ++i) {
      if (state.stop_ids[i] == id && position < state.stop_from) x[id] = -kInfinity;
    }
    if (std::isnan(x[id])) x[id] = -kInfinity;
  }
  return x;
}

Reference Distribution(const std::vector<double>& x, const SamplingState& state) {
  const int n = static_cast<int>(x.size());
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  Reference reference;
  reference.p.assign(n, 0);
  std::vector<double> weight(n);
  for (int i = 0; i < n; ++i) weight[i] = std::exp((x[order[i]] - x[order[0]]) / state.temperature);
  int keep = n;
  if (state.temperature == 0) keep = 1;
  if (state.top_k > 0) keep = std::min(keep, state.top_k);
  if (state.top_p < 1) {
    const double all = std::accumulate(weight.begin(), weight.begin() + keep, 0.0);
    double sum = 0;
    int reached = 0;
    while (reached < keep) {
      sum += weight[reached++];
      if (std::abs(sum / all - state.top_p) < 1e-5) reference.ambiguous = true;
      if (sum >= state.top_p * all) break;
    }
    keep = reached;
  }
  int end = 0;
  while (end < keep && weight[end] >= double(state.min_p)) ++end;
  for (int i = 0; i < keep; ++i)
    reference.ambiguous |= std::abs(weight[i] - state.min_p) < 1e-5 * state.min_p;
  if (state.temperature == 0) weight[0] = 1;
  const double total = std::accumulate(weight.begin(), weight.begin() + end, 0.0);
  for (int i = 0; i < end; ++i) reference.p[order[i]] = weight[i] / total;
  return reference;
}

// The library's own distribution of a row, made visible: what slot 0's token at position 10 is
// drawn from. `picked`: that token.
std::vector<float> DrawnDistribution(Step& step, const std::vector<float>& logits,
                                     int32_t* picked = nullptr) {
  std::vector<float> padded(step.V, 60.0f), p(step.V, 0.0f);
  std::copy(logits.begin(), logits.end(), padded.begin());
  TokenDistribution distribution(step.scratch.memory.as<float>(), nullptr, step.tables);
  const int32_t token = distribution.Pick({padded.data(), &step.states[0], 10, nullptr, 0});
  if (picked != nullptr) *picked = token;
  distribution.Probabilities(p.data());
  return p;
}

SamplingState RandomState(std::mt19937& random, int vocabulary) {
  const auto uniform = [&](float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(random);
  };
  SamplingState state;
  state.temperature = std::exp(uniform(-1.5f, 1.5f));
  if (random() % 2) state.top_p = uniform(0.01f, 1.0f);
  if (random() % 2) state.top_k = 1 + static_cast<int>(random() % (2 * vocabulary));
  if (random() % 2) state.min_p = uniform(0.0f, 0.4f);
  if (random() % 2) {
    state.repetition_penalty = uniform(0.5f, 2.0f);
    state.presence_penalty = uniform(-2.0f, 2.0f);
    state.frequency_penalty = uniform(-1.0f, 1.0f);
    state.counts_row = 0;
  }
  if (random() % 2) state.bias_row = 0;
  return state;
}

// ---- randomness ---------------------------------------------------------------------------------

// Published known-answer vectors of Philox4x32-10 (Random123, kat_vectors).
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  const uint32_t ones = 0xffffffff;
  EXPECT_THAT(Philox4x32({ones, ones, ones, ones}, {ones, ones}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(PhiloxTest, WordsDifferByAllThatNamesThem) {
  std::vector<uint32_t> words;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
    for (const uint32_t position : {0u, 1u, 1u << 20}) {
      for (const uint32_t sample : {0u, 1u, 1u << 20}) {
        for (const uint32_t group : {0u, 1u, 1u << 20}) {
          for (const uint32_t word : RaceWords({seed, position, sample}, group))
            words.push_back(word);
        }
      }
    }
  }
  std::sort(words.begin(), words.end());
  EXPECT_EQ(std::unique(words.begin(), words.end()), words.end());
}

TEST(PhiloxTest, ArrivalsAreExponential) {
  // -log(1 - u) at both ends of u and where the logarithm's argument is near 1.
  EXPECT_NEAR(ArrivalTime(0, 1), 0x1p-33, 1e-19);
  EXPECT_NEAR(ArrivalTime(0x7fffffff, 1), std::log(2), 1e-9);
  EXPECT_NEAR(ArrivalTime(0xffffffff, 1), 33 * std::log(2), 1e-9);
  EXPECT_DOUBLE_EQ(ArrivalTime(12345, 0.25f), 4 * ArrivalTime(12345, 1));
  for (uint64_t word = 0; word < 1ull << 32; word += 99999989) {
    EXPECT_GE(ArrivalTime(static_cast<uint32_t>(word), 1), (double(word) + 0.5) * 0x1p-32);
  }
}

// ---- distributions ------------------------------------------------------------------------------

TEST(SamplingTest, DistributionsAgreeWithSortingInDoubles) {
  std::mt19937 random(1);
  int compared = 0;
  for (int round = 0; round < 600; ++round) {
    const int vocabulary =
        std::vector<int>{1, 2, 15, 16, 17, 100, 2047, 2048, 2049, 5000}[round % 10];
    Step step(1, vocabulary, vocabulary + static_cast<int>(random() % 20));
    SamplingState& state = step.states[0];
    state = RandomState(random, vocabulary);
    std::vector<float> logits(vocabulary);
    std::normal_distribution<float> normal(0, 3);
    // Some rows of few distinct values: ranks by id among equals.
    for (float& x : logits) x = round % 3 == 0 ? std::round(normal(random)) : normal(random);
    for (int id = 0; id < vocabulary; ++id) {
      if (random() % 4 == 0) step.counts[id] = static_cast<int32_t>(random() % 3);
      if (random() % 5 == 0) step.counts[id] |= static_cast<int32_t>(0x80000000u);
      if (random() % 4 == 0) step.bias[id] = normal(random);
      if (random() % 9 == 0 && id > 0) step.bias[id] = -kInfinity;
    }
    int32_t picked = -1;
    const std::vector<float> drawn = DrawnDistribution(step, logits, &picked);
    const auto x = ProcessedLogits(logits.data(), vocabulary, state, step.bias.data(),
                                   step.counts.data(), {}, 10);
    const Reference reference = Distribution(x, state);
    if (reference.ambiguous) continue;
    ++compared;
    // Bias, penalties and the maximum's subtraction each round a logit by 6e-8 of its size;
    // temperature divides by less than one at times. The sum and exp add about 1e-6.
    double largest = 0;
    for (const double value : x)
      largest = std::isfinite(value) ? std::max(largest, std::abs(value)) : largest;
    const double relative = 1e-6 + 5 * 6e-8 * largest / state.temperature;
    for (int id = 0; id < step.V; ++id) {
      const double expected = id < vocabulary ? reference.p[id] : 0;
      ASSERT_NEAR(drawn[id], expected, relative * expected + 1e-12)
          << "id " << id << " of " << vocabulary << ", round " << round;
      if (expected == 0) {
        ASSERT_EQ(drawn[id], 0) << "id " << id << ", round " << round;
      } else if (expected > 1e-30) {
        ASSERT_GT(drawn[id], 0) << "id " << id << ", round " << round;
      }
    }
    ASSERT_GT(drawn[picked], 0);
  }
  EXPECT_GT(compared, 450);
}

TEST(SamplingTest, PenaltiesCountDraftsOfTheWindow) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 2);
  for (int round = 0; round < 100; ++round) {
    const int vocabulary = 40, length = static_cast<int>(random() % 6);
    Step step(1, vocabulary, 48);
    SamplingState& state = step.states[0];
    state.repetition_penalty = 1.4f;
    state.presence_penalty = 0.7f;
    state.frequency_penalty = 0.9f;
    state.counts_row = 0;
    state.stop_count = 2;
    state.stop_ids[0] = 3;
    state.stop_ids[1] = 7;
    state.stop_from = 12;  // rows 0 and 1 decide positions 10 and 11
    for (int id = 0; id < vocabulary; ++id)
      step.counts[id] = random() % 3 == 0 ? 1 + static_cast<int>(random() % 2) : 0;
    const std::vector<int32_t> before = step.counts;
    std::vector<int32_t> window, expected;
    // Greedy drafts that are right as far as `length`: each row's argmax by reference.
    for (int i = 0; i <= length; ++i) {
      for (int id = 0; id < vocabulary; ++id) step.Logits(0, i)[id] = normal(random);
      step.Logits(0, i)[3] = 9;
      if (i > 0) step.Logits(0, i)[expected.back()] = 5;  // tempting unless penalised
      const auto x = ProcessedLogits(step.Logits(0, i), vocabulary, state, nullptr, before.data(),
                                     window, 10 + i);
      expected.push_back(static_cast<int32_t>(std::max_element(x.begin(), x.end()) - x.begin()));
      window.push_back(expected.back());
      if (i < length) step.tokens[step.row[0] + 1 + i] = expected.back();
    }
    step.drafts[0] = length;
    step.Accept();
    ASSERT_EQ(step.accepted[0], length);
    // The cut: after the first stop id, which the first two rows cannot give.
    int kept = 0;
    while (kept <= length) {
      const int32_t id = expected[kept++];
      if (id == 3 || id == 7) break;
    }
    ASSERT_EQ(step.kept[0], kept);
    ASSERT_EQ(step.stopped[0], expected[kept - 1] == 3 || expected[kept - 1] == 7);
    for (int i = 0; i < kept; ++i) ASSERT_EQ(step.out[i], expected[i]);
    for (int id = 0; id < vocabulary; ++id) {
      ASSERT_EQ(step.counts[id],
                before[id] + std::count(expected.begin(), expected.begin() + kept, id));
    }
  }
}

TEST(SamplingTest, PromptMarkStaysWhenKeptTokensAreCounted) {
  Step step(1, 4);
  step.states[0].counts_row = 0;
  step.counts[2] = static_cast<int32_t>(0x80000000u);
  step.SetLogits(0, 0, {0, 0, 9, 0});
  step.Accept();
  EXPECT_EQ(static_cast<uint32_t>(step.counts[2]), 0x80000001u);
}

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

// The rule itself, id by id in doubles: only near-ties may come out otherwise.
TEST(SamplingTest, TheFirstToArriveIsPicked) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 4);
  int ties = 0;
  for (int round = 0; round < 400; ++round) {
    const int vocabulary =
        std::vector<int>{1, 3, 63, 64, 65, 127, 2048, 2050, 4100, 40000}[round % 10];
    Step step(1, vocabulary, vocabulary + 5, 1 + round % 3);
    SamplingState& state = step.states[0];
    state.temperature = 0.1f + 0.2f * (round % 9);
    state.seed = random() * uint64_t{0x100000001};
    state.sample = random() % 4;
    step.position[0] = static_cast<int32_t>(random() >> 1);
    std::vector<float> logits(vocabulary);
    for (float& x : logits) x = normal(random);
    step.SetLogits(0, 0, logits);
    step.Accept();
    const float maximum = *std::max_element(logits.begin(), logits.end());
    double first = kInfinity, second = kInfinity;
    int32_t winner = -1;
    for (int id = 0; id < vocabulary; ++id) {
      const auto words = Philox4x32({uint32_t(id / 4), uint32_t(step.position[0]), state.sample, 0},
                                    {uint32_t(state.seed), uint32_t(state.seed >> 32)});
      const double u = (words[id % 4] + 0.5) / 4294967296.0;
      const double time =
          -std::log1p(-u) / std::exp((double(logits[id]) - maximum) / state.temperature);
      if (time < first) {
        second = first, first = time, winner = id;
      } else {
        second = std::min(second, time);
      }
    }
    if (second < first * (1 + 1e-4)) {
      ++ties;
    } else {
      ASSERT_EQ(step.out[0], winner) << "round " << round << ", " << vocabulary << " ids";
    }
  }
  EXPECT_LT(ties, 4);
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

// ---- extremes -----------------------------------------------------------------------------------

TEST(SamplingTest, ExtremeLogitsAndParametersGiveAllowedTokens) {
  const std::vector<std::vector<float>> rows = {std::vector<float>(37, 0.0f),
                                                std::vector<float>(37, -kInfinity),
                                                std::vector<float>(37, kInfinity),
                                                std::vector<float>(37, kNaN),
                                                std::vector<float>(37, FLT_MAX),
                                                std::vector<float>(37, -FLT_MAX),
                                                {kNaN, -kInfinity, 1},
                                                {kInfinity, 1, kInfinity, kNaN},
                                                {FLT_MAX, -FLT_MAX, 0},
                                                {1e-45f, -1e-45f, 0},
                                                {5},
                                                {kNaN}};
  std::vector<SamplingState> states;
  for (const float temperature :
       {0.0f, 1e-40f, 1e-6f, 1.0f, 100.0f, 1e38f, kInfinity, kNaN, -1.0f}) {
    for (const int top_k : {0, 1, 2, 1000}) {
      for (const float top_p : {1.0f, 1e-30f, 0.0f, 0.5f, 0.99999994f, kNaN, -5.0f}) {
        for (const float min_p : {0.0f, 1.0f, 1e-30f, 7.0f}) {
          for (const float penalty : {1.0f, 1e-40f, 1e30f, kInfinity}) {
            SamplingState state;
            state.temperature = temperature;
            state.top_k = top_k;
            state.top_p = top_p;
            state.min_p = min_p;
            state.repetition_penalty = penalty;
            state.presence_penalty = penalty == 1 ? 0 : -penalty;
            state.frequency_penalty = penalty == 1 ? 0 : penalty;
            state.counts_row = state.bias_row = 0;
            states.push_back(state);
          }
        }
      }
    }
  }
  for (const std::vector<float>& logits : rows) {
    const int vocabulary = static_cast<int>(logits.size());
    Step step(1, vocabulary, vocabulary + 3);
    if (vocabulary > 1) step.bias[0] = -kInfinity, step.counts[1] = 3;
    std::vector<float> draft(step.V, 99.0f);
    std::copy(logits.begin(), logits.end(), draft.begin());
    for (int i = 0; i < 3; ++i) step.SetLogits(0, i, logits);
    for (const SamplingState& state : states) {
      step.states[0] = state;
      step.drafts[0] = 2;
      step.limit[0] = kTokens;
      for (int i = 0; i < 2; ++i) step.Draft(i, draft);
      step.Accept(3);
      ASSERT_GE(step.kept[0], 1);
      for (int i = 0; i < step.kept[0]; ++i) {
        ASSERT_GE(step.out[i], vocabulary > 1 ? 1 : 0);  // id 0 is not allowed
        ASSERT_LT(step.out[i], vocabulary);
        ASSERT_FALSE(std::isnan(step.logprobs[i]));
      }
      const std::vector<float> p = DrawnDistribution(step, logits);
      ASSERT_NEAR(std::accumulate(p.begin(), p.begin() + vocabulary, 0.0f), 1, 1e-4);
    }
  }
}

TEST(SamplingTest, NothingPossibleGivesTheLowestAllowedId) {
  for (const float temperature : {0.0f, 1.0f}) {
    Step step(1, 6, 8);
    step.states[0].temperature = temperature;
    step.states[0].bias_row = 0;
    step.states[0].stop_count = 1;
    step.states[0].stop_ids[0] = 1;
    step.states[0].stop_from = 1000;
    step.bias[0] = -kInfinity;
    step.SetLogits(0, 0, std::vector<float>(6, kNaN));
    step.Accept();
    EXPECT_EQ(step.out[0], 2);
  }
}

TEST(SamplingTest, ArgmaxIsTheLowestIdWhereverItStands) {
  for (const int vocabulary : {1, 15, 16, 17, 33, 2048, 2049, 6001}) {
    for (int at = 0; at < vocabulary; at += std::max(1, vocabulary / 61)) {
      Step step(1, vocabulary, vocabulary + 9);
      std::vector<float> logits(vocabulary, -3.0f);
      logits[at] = logits[vocabulary - 1] = 2;
      if (at > 0) logits[at - 1] = kNaN;
      step.SetLogits(0, 0, logits);
      step.Accept();
      ASSERT_EQ(step.out[0], at) << vocabulary;
    }
  }
}

TEST(SamplingTest, SmallerTopPKeepsTheMostProbableLowestIdFirst) {
  Step step(1, 8);
  step.states[0].temperature = 1;
  step.states[0].top_p = 0.5f;  // of eight equals: exactly four
  EXPECT_THAT(DrawnDistribution(step, std::vector<float>(8, 1.5f)),
              ElementsAre(0.25f, 0.25f, 0.25f, 0.25f, 0, 0, 0, 0));
  step.states[0].top_p = 1;
  step.states[0].top_k = 2;
  EXPECT_THAT(DrawnDistribution(step, {0, 1, 1, 1, 0, 0, 0, 0}),
              ElementsAre(0, 0.5f, 0.5f, 0, 0, 0, 0, 0));
  step.states[0].top_k = 4;
  step.states[0].top_p = 0.5f;  // of what top_k left
  EXPECT_THAT(DrawnDistribution(step, std::vector<float>(8, -2.0f)),
              ElementsAre(0.5f, 0.5f, 0, 0, 0, 0, 0, 0));
}

// ---- log-probabilities --------------------------------------------------------------------------

TEST(SamplingTest, LogProbabilitiesIgnoreSamplingParameters) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0, 4);
  for (const int vocabulary : {1, 5, 40, 5000}) {
    Step step(3, vocabulary, vocabulary + 8);
    std::vector<int32_t> rows = {0, kTokens, 2 * kTokens}, tokens = {0, vocabulary - 1, vocabulary};
    for (int s = 0; s < 3; ++s) {
      for (int id = 0; id < vocabulary; ++id)
        step.Logits(s, 0)[id] = std::round(8 * normal(random)) / 8;
    }
    TokenScoring request{3,
                         rows.data(),
                         tokens.data(),
                         7,
                         step.logprobs.data(),
                         step.alternative_ids.data(),
                         step.alternative_logprobs.data()};
    ScoreTokens(*step.pool, request, step.tables, step.View(), step.scratch);
    for (int s = 0; s < 3; ++s) {
      const float* x = step.Logits(s, 0);
      double total = 0;
      for (int id = 0; id < vocabulary; ++id) total += std::exp(double(x[id]));
      if (tokens[s] < vocabulary) {
        EXPECT_NEAR(step.logprobs[s], x[tokens[s]] - std::log(total), 1e-5);
      } else {
        EXPECT_EQ(step.logprobs[s], -kInfinity);
      }
      std::vector<int> order(vocabulary);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
      for (int i = 0; i < 7; ++i) {
        const int at = s * kMaxAlternatives + i;
        EXPECT_EQ(step.alternative_ids[at], i < vocabulary ? order[i] : -1);
        if (i < vocabulary) {
          EXPECT_NEAR(step.alternative_logprobs[at], x[order[i]] - std::log(total), 1e-5);
        }
      }
    }
    request.alternatives = 0;
    request.alternative_ids = nullptr;
    request.alternative_logprobs = nullptr;
    ScoreTokens(*step.pool, request, step.tables, step.View(), step.scratch);
  }
}

}  // namespace
}  // namespace mambad::kernels
