// Backend::Accept and SampleDrafts: which token a row gives. The race, penalties, extremes.

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/philox.h"
#include "tests/kernels/backend/sampling_step.h"
#include "tests/kernels/backend/tested_backend.h"
#include "tests/kernels/sampling_reference.h"

namespace mambad::kernels {
namespace {

class SamplingTest : public OnBackend<> {};
INSTANTIATE_TEST_SUITE_P(Variants, SamplingTest, ::testing::ValuesIn(TestedVariants()),
                         NameOfVariant);

// ---- the race -----------------------------------------------------------------------------------

struct Race {
  int32_t winner = -1;
  bool tie = false;  // nearly: rounding decides
};

// The rule itself, id by id in doubles. `p`: chances, or anything in proportion to them.
Race RunRace(const std::vector<double>& p, const SamplingState& state, int32_t position) {
  double first = kInfinity, second = kInfinity;
  Race race;
  for (int id = 0; id < static_cast<int>(p.size()); ++id) {
    if (p[id] == 0) continue;
    const auto words = Philox4x32({uint32_t(id / 4), uint32_t(position), state.sample, 0},
                                  {uint32_t(state.seed), uint32_t(state.seed >> 32)});
    const double time = -std::log1p(-(words[id % 4] + 0.5) / 4294967296.0) / p[id];
    if (time < first) {
      second = first, first = time, race.winner = id;
    } else {
      second = std::min(second, time);
    }
  }
  race.tie = second < first * (1 + 1e-4);
  return race;
}

TEST_P(SamplingTest, TheFirstToArriveIsPicked) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 4);
  int ties = 0;
  for (int round = 0; round < 400; ++round) {
    const int vocabulary =
        std::vector<int>{1, 3, 63, 64, 65, 127, 2048, 2050, 4100, 40000}[round % 10];
    SamplingStep step(tested().WithThreads(1 + round % 3), 1, vocabulary, vocabulary + 5, 1);
    SamplingState& state = step.states[0];
    state.temperature = 0.1f + 0.2f * (round % 9);
    state.seed = random() * uint64_t{0x100000001};
    state.sample = random() % 4;
    step.position[0] = static_cast<int32_t>(random() >> 1);
    Row logits(vocabulary);
    for (float& x : logits) x = normal(random);
    step.SetLogits(0, 0, logits);
    step.Accept();
    const double maximum = *std::max_element(logits.begin(), logits.end());
    std::vector<double> weights(vocabulary);
    for (int id = 0; id < vocabulary; ++id) {
      weights[id] = std::exp((logits[id] - maximum) / state.temperature);
    }
    const Race race = RunRace(weights, state, step.position[0]);
    if (race.tie) {
      ++ties;
    } else {
      ASSERT_EQ(step.out[0], race.winner) << "round " << round << ", " << vocabulary << " ids";
    }
  }
  EXPECT_LT(ties, 4);
}

// With bias, penalties, top_k, top_p and min_p: which ids are left, and what they weigh then.
TEST_P(SamplingTest, TheFirstToArriveOfThoseThatAreLeftIsPicked) {
  std::mt19937 random(1);
  int compared = 0;
  for (int round = 0; round < 600; ++round) {
    const int vocabulary =
        std::vector<int>{1, 2, 15, 16, 17, 100, 2047, 2048, 2049, 5000}[round % 10];
    SamplingStep step(backend(), 1, vocabulary, vocabulary + static_cast<int>(random() % 20), 1);
    SamplingState& state = step.states[0];
    state = RandomState(random, vocabulary);
    state.seed = random();
    Row logits(vocabulary);
    std::normal_distribution<float> normal(0, 3);
    // Some rows of few distinct values: ranks by id among equals.
    for (float& x : logits) x = round % 3 == 0 ? std::round(normal(random)) : normal(random);
    for (int id = 0; id < vocabulary; ++id) {
      if (random() % 4 == 0) step.counts[id] = static_cast<int32_t>(random() % 3);
      if (random() % 5 == 0) step.counts[id] |= static_cast<int32_t>(0x80000000u);
      if (random() % 4 == 0) step.bias[id] = normal(random);
      if (random() % 9 == 0 && id > 0) step.bias[id] = -kInfinity;
    }
    step.SetLogits(0, 0, logits);
    const Reference reference =
        Distribution(ProcessedLogits(logits.data(), vocabulary, state, step.bias.data(),
                                     step.counts.data(), {}, step.position[0]),
                     state);
    const Race race = RunRace(reference.p, state, step.position[0]);
    step.Accept();
    if (reference.ambiguous || race.tie) continue;
    ++compared;
    ASSERT_EQ(step.out[0], race.winner) << "round " << round << ", " << vocabulary << " ids";
  }
  EXPECT_GT(compared, 450);
}

// ---- penalties ----------------------------------------------------------------------------------

TEST_P(SamplingTest, PenaltiesCountDraftsOfTheWindow) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 2);
  for (int round = 0; round < 100; ++round) {
    const int vocabulary = 40, length = static_cast<int>(random() % 6);
    SamplingStep step(backend(), 1, vocabulary, 48);
    SamplingState& state = step.states[0];
    state.repetition_penalty = 1.4f;
    state.presence_penalty = 0.7f;
    state.frequency_penalty = 0.9f;
    state.counts_row = state.bias_row = 0;
    state.stop_count = 2;
    state.stop_ids[0] = 3;
    state.stop_ids[1] = 7;
    state.stop_from = 12;  // rows 0 and 1 decide positions 10 and 11
    for (int id = 0; id < vocabulary; ++id) {
      step.counts[id] = random() % 3 == 0 ? 1 + static_cast<int>(random() % 2) : 0;
      if (random() % 5 == 0) step.counts[id] |= static_cast<int32_t>(0x80000000u);
      step.bias[id] = normal(random);
    }
    const std::vector<int32_t> before = step.counts;
    std::vector<int32_t> window, expected;
    // Greedy drafts that are right as far as `length`: each row's argmax by reference.
    for (int i = 0; i <= length; ++i) {
      for (int id = 0; id < vocabulary; ++id) step.Logits(0, i)[id] = normal(random);
      step.Logits(0, i)[3] = 9;
      if (i > 0) step.Logits(0, i)[expected.back()] = 5;  // tempting unless penalised
      const auto x = ProcessedLogits(step.Logits(0, i), vocabulary, state, step.bias.data(),
                                     before.data(), window, 10 + i);
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

TEST_P(SamplingTest, PromptMarkStaysWhenKeptTokensAreCounted) {
  SamplingStep step(backend(), 1, 4);
  step.states[0].counts_row = 0;
  step.counts[2] = static_cast<int32_t>(0x80000000u);
  step.SetLogits(0, 0, {0, 0, 9, 0});
  step.Accept();
  EXPECT_EQ(static_cast<uint32_t>(step.counts[2]), 0x80000001u);
}

TEST_P(SamplingTest, NothingIsCountedOfSlotsWithoutPenalties) {
  SamplingStep step(backend(), 2, 4);
  step.states[1].counts_row = 0;  // the other slot's row stays free
  for (int s = 0; s < 2; ++s) step.SetLogits(s, 0, {0, 0, 9, 0});
  step.Accept();
  EXPECT_EQ(step.counts, std::vector<int32_t>({0, 0, 1, 0, 0, 0, 0, 0}));
}

// ---- extremes -----------------------------------------------------------------------------------

TEST_P(SamplingTest, ExtremeLogitsAndParametersGiveAllowedTokens) {
  const std::vector<SamplingState> states = ExtremeStates();
  const int count = static_cast<int>(states.size());
  for (const Row& logits : ExtremeRows()) {
    const int vocabulary = static_cast<int>(logits.size());
    SamplingStep step(backend(), count, vocabulary, vocabulary + 3, 3);
    step.states = states;
    Row draft(size_t(count) * step.V, 99.0f);
    for (int s = 0; s < count; ++s) {
      const size_t at = size_t(s) * step.V;
      if (vocabulary > 1) step.bias[at] = -kInfinity, step.counts[at + 1] = 3;
      std::copy(logits.begin(), logits.end(), draft.begin() + at);
      for (int i = 0; i < 3; ++i) step.SetLogits(s, i, logits);
      step.drafts[s] = 2;
    }
    for (int i = 0; i < 2; ++i) step.Draft(i, draft);
    step.Accept(3);
    for (int s = 0; s < count; ++s) {
      ASSERT_GE(step.kept[s], 1);
      for (int i = 0; i < step.kept[s]; ++i) {
        const int at = s * kTokens + i;
        ASSERT_GE(step.out[at], vocabulary > 1 ? 1 : 0);  // id 0 is not allowed
        ASSERT_LT(step.out[at], vocabulary);
        ASSERT_FALSE(std::isnan(step.logprobs[at]));
      }
    }
  }
}

TEST_P(SamplingTest, NothingPossibleGivesTheLowestAllowedId) {
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingStep step(backend(), 1, 6, 8);
    step.states[0].temperature = temperature;
    step.states[0].bias_row = 0;
    step.states[0].stop_count = 1;
    step.states[0].stop_ids[0] = 1;
    step.states[0].stop_from = 1000;
    step.bias[0] = -kInfinity;
    step.SetLogits(0, 0, Row(6, kNaN));
    step.Accept();
    EXPECT_EQ(step.out[0], 2);
  }
}

TEST_P(SamplingTest, ArgmaxIsTheLowestIdWhereverItStands) {
  for (const int vocabulary : {1, 15, 16, 17, 33, 2048, 2049, 6001}) {
    for (int at = 0; at < vocabulary; at += std::max(1, vocabulary / 61)) {
      SamplingStep step(backend(), 1, vocabulary, vocabulary + 9, 1);
      Row logits(vocabulary, -3.0f);
      logits[at] = logits[vocabulary - 1] = 2;
      if (at > 0) logits[at - 1] = kNaN;
      step.SetLogits(0, 0, logits);
      step.Accept();
      ASSERT_EQ(step.out[0], at) << vocabulary;
    }
  }
}

// Equals are cut by id: what is left of eight equals, and of what top_k left.
TEST_P(SamplingTest, SmallerTopPKeepsTheMostProbableLowestIdFirst) {
  struct Case {
    Row logits;
    int top_k;
    float top_p;
    std::vector<bool> left;
  };
  const std::vector<Case> cases = {
      {Row(8, 1.5f), 0, 0.5f, {true, true, true, true, false, false, false, false}},
      {{0, 1, 1, 1, 0, 0, 0, 0}, 2, 1, {false, true, true, false, false, false, false, false}},
      {Row(8, -2.0f), 4, 0.5f, {true, true, false, false, false, false, false, false}}};
  constexpr int kDraws = 400;
  for (const Case& each : cases) {
    SamplingStep step(backend(), kDraws, 8, 11, 1);
    for (int s = 0; s < kDraws; ++s) {
      step.states[s].temperature = 1;
      step.states[s].top_k = each.top_k;
      step.states[s].top_p = each.top_p;
      step.SetLogits(s, 0, each.logits);
    }
    step.Accept();
    std::vector<int> seen(8);
    for (int s = 0; s < kDraws; ++s) ++seen.at(step.out[s * kTokens]);
    for (int id = 0; id < 8; ++id) EXPECT_EQ(seen[id] > 0, each.left[id]) << id;
  }
}

}  // namespace
}  // namespace mambad::kernels
