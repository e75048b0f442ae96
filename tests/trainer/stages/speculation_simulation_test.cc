// Speculation played over given acceptance against counts by hand, and against speculative sampling
// itself.

#include "trainer/stages/speculation_simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "trainer/counter_random.h"

namespace mambad::trainer {
namespace {

using ::testing::ElementsAre;

TEST(SpeculationSimulation, CountsByHand) {
  // Drafts of 2 over 1 1 1 | 0 | 1 0 | 1 1 1 and an end that leaves no room for a whole one.
  const SpeculationCounts counts = SimulateSpeculation({{1, 1, 1, 0, 1, 0, 1, 1, 1, 1}}, 2, 1);
  EXPECT_EQ(counts.verifications, 4);
  EXPECT_THAT(counts.reached, ElementsAre(4, 3));
  EXPECT_THAT(counts.accepted, ElementsAre(3, 2));
  EXPECT_EQ(counts.tokens, 3 + 1 + 2 + 3);
  EXPECT_DOUBLE_EQ(counts.AcceptanceAt(0), 0.75);
  EXPECT_DOUBLE_EQ(counts.AcceptanceAt(1), 2.0 / 3.0);
  EXPECT_DOUBLE_EQ(counts.AcceptedShare(), 5.0 / 8.0);
  EXPECT_DOUBLE_EQ(counts.TokensPerVerification(), 9.0 / 4.0);
}

TEST(SpeculationSimulation, TextsShorterThanADraftCountNothing) {
  const SpeculationCounts counts = SimulateSpeculation({{1, 1}, {}}, 3, 1);
  EXPECT_EQ(counts.verifications, 0);
  EXPECT_EQ(counts.AcceptanceAt(2), 0);
  EXPECT_EQ(counts.TokensPerVerification(), 0);
}

// Tokens that are drawn one by one from a target p, with acceptance min(1, q / p), must be kept as
// often as the algorithm itself keeps a draft's: propose from q, accept with min(1, p / q).
TEST(SpeculationSimulation, KeepsWhatSpeculativeSamplingKeeps) {
  const std::array<double, 4> p = {0.5, 0.2, 0.2, 0.1}, q = {0.3, 0.4, 0.05, 0.25};
  const auto draw = [](const std::array<double, 4>& of, double uniform) {
    int token = 0;
    while (token < 3 && uniform >= of[token]) uniform -= of[token++];
    return token;
  };
  constexpr int kDraft = 3, kRounds = 200000;
  std::array<double, kDraft> reached = {}, accepted = {};
  const CounterRandom random(7, 1);
  uint64_t counter = 0;
  for (int round = 0; round < kRounds; ++round) {
    for (int position = 0; position < kDraft; ++position) {
      ++reached[position];
      const int token = draw(q, random.Uniform(counter++));
      if (random.Uniform(counter++) >= p[token] / q[token]) break;
      ++accepted[position];
    }
  }
  std::vector<float> acceptance;
  for (int i = 0; i < 3 * kRounds; ++i) {
    const int token = draw(p, random.Uniform(counter++));
    acceptance.push_back(static_cast<float>(std::min(1.0, q[token] / p[token])));
  }
  const SpeculationCounts counts = SimulateSpeculation({acceptance}, kDraft, 3);
  for (int position = 0; position < kDraft; ++position) {
    const double expected = accepted[position] / reached[position];
    // Five standard deviations of both counts.
    const double deviation =
        std::sqrt(expected * (1 - expected) *
                  (1 / reached[position] + 1.0 / static_cast<double>(counts.reached[position])));
    EXPECT_NEAR(counts.AcceptanceAt(position), expected, 5 * deviation) << position;
  }
}

}  // namespace
}  // namespace mambad::trainer
