// The chances of a row's ids, which the token is drawn by.

#include "kernels/cpu/token_distribution.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/sampling.h"
#include "tests/kernels/sampling_reference.h"

namespace mambad::kernels {
namespace {

using ::testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One slot's parameters, and a row of `vocabulary` ids padded to `padded`.
struct OneRow {
  explicit OneRow(int vocabulary, int padded = 0)
      : V(std::max(vocabulary, padded)),
        counts(V, 0),
        bias(V, 0.0f),
        scratch(CreateSamplingScratch(1, V)),
        tables{&state, counts.data(), bias.data(), vocabulary, V} {}

  // What the token at position 10 is drawn from. `picked`: that token.
  std::vector<float> Distribution(const std::vector<float>& logits, int32_t* picked = nullptr) {
    std::vector<float> row(V, 60.0f), p(V, 0.0f);  // padding must not be sampled
    std::copy(logits.begin(), logits.end(), row.begin());
    TokenDistribution distribution(scratch.memory.as<float>(), nullptr, tables);
    const int32_t token = distribution.Pick({row.data(), &state, 10, nullptr, 0});
    if (picked != nullptr) *picked = token;
    distribution.Probabilities(p.data());
    return p;
  }

  int V;
  SamplingState state;
  std::vector<int32_t> counts;
  std::vector<float> bias;
  SamplingScratch scratch;
  SamplingTables tables;
};

TEST(TokenDistributionTest, AgreesWithSortingInDoubles) {
  std::mt19937 random(1);
  int compared = 0;
  for (int round = 0; round < 600; ++round) {
    const int vocabulary =
        std::vector<int>{1, 2, 15, 16, 17, 100, 2047, 2048, 2049, 5000}[round % 10];
    OneRow row(vocabulary, vocabulary + static_cast<int>(random() % 20));
    const SamplingState state = row.state = RandomState(random, vocabulary);
    std::vector<float> logits(vocabulary);
    std::normal_distribution<float> normal(0, 3);
    // Some rows of few distinct values: ranks by id among equals.
    for (float& x : logits) x = round % 3 == 0 ? std::round(normal(random)) : normal(random);
    for (int id = 0; id < vocabulary; ++id) {
      if (random() % 4 == 0) row.counts[id] = static_cast<int32_t>(random() % 3);
      if (random() % 5 == 0) row.counts[id] |= static_cast<int32_t>(0x80000000u);
      if (random() % 4 == 0) row.bias[id] = normal(random);
      if (random() % 9 == 0 && id > 0) row.bias[id] = -kInfinity;
    }
    int32_t picked = -1;
    const std::vector<float> drawn = row.Distribution(logits, &picked);
    const auto x = ProcessedLogits(logits.data(), vocabulary, state, row.bias.data(),
                                   row.counts.data(), {}, 10);
    const Reference reference = Distribution(x, state);
    if (reference.ambiguous) continue;
    ++compared;
    // Bias, penalties and the maximum's subtraction each round a logit by 6e-8 of its size;
    // temperature divides by less than one at times. The sum and exp add about 1e-6.
    double largest = 0;
    for (const double value : x)
      largest = std::isfinite(value) ? std::max(largest, std::abs(value)) : largest;
    const double relative = 1e-6 + 5 * 6e-8 * largest / state.temperature;
    for (int id = 0; id < row.V; ++id) {
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

TEST(TokenDistributionTest, SmallerTopPKeepsTheMostProbableLowestIdFirst) {
  OneRow row(8);
  row.state.temperature = 1;
  row.state.top_p = 0.5f;  // of eight equals: exactly four
  EXPECT_THAT(row.Distribution(std::vector<float>(8, 1.5f)),
              ElementsAre(0.25f, 0.25f, 0.25f, 0.25f, 0, 0, 0, 0));
  row.state.top_p = 1;
  row.state.top_k = 2;
  EXPECT_THAT(row.Distribution({0, 1, 1, 1, 0, 0, 0, 0}),
              ElementsAre(0, 0.5f, 0.5f, 0, 0, 0, 0, 0));
  row.state.top_k = 4;
  row.state.top_p = 0.5f;  // of what top_k left
  EXPECT_THAT(row.Distribution(std::vector<float>(8, -2.0f)),
              ElementsAre(0.5f, 0.5f, 0, 0, 0, 0, 0, 0));
}

TEST(TokenDistributionTest, ChancesAddUpToOneForExtremeRows) {
  for (const std::vector<float>& logits : ExtremeRows()) {
    const int vocabulary = static_cast<int>(logits.size());
    OneRow row(vocabulary, vocabulary + 3);
    if (vocabulary > 1) row.bias[0] = -kInfinity, row.counts[1] = 3;
    for (const SamplingState& state : ExtremeStates()) {
      row.state = state;
      row.state.counts_row = row.state.bias_row = 0;
      const std::vector<float> p = row.Distribution(logits);
      ASSERT_NEAR(std::accumulate(p.begin(), p.begin() + vocabulary, 0.0f), 1, 1e-4);
    }
  }
}

}  // namespace
}  // namespace mambad::kernels
