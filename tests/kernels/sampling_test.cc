// Which token a row gives: randomness, distributions, the race, extremes, log-probabilities.

#include "kernels/cpu/sampling.h"

#include <cfloat>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/philox.h"
#include "kernels/cpu/token_distribution.h"
#include "tests/kernels/sampling_step.h"

namespace mambad::kernels {
namespace {

using ::testing::ElementsAre;

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

// ---- the race -----------------------------------------------------------------------------------

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
