// What is divergence and what is not.

#include "trainer/loss_watch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace mambad::trainer {
namespace {

constexpr double kFactor = 3, kNegligible = 0.01;

LossWatch After(const std::vector<double>& losses, double negligible = kNegligible) {
  LossWatch watch;
  for (const double loss : losses) watch.Add(loss, kFactor, negligible);
  return watch;
}

TEST(LossWatch, ThreeHighLossesInARowAreDivergence) {
  EXPECT_FALSE(After({1.0, 2.9, 2.9, 2.9}).high());
  EXPECT_EQ(After({1.0, 3.1}).high_in_a_row, 1);
  EXPECT_FALSE(After({1.0, 3.1, 9.0}).diverged());
  EXPECT_TRUE(After({1.0, 3.1, 9.0, 4.0}).diverged());
  EXPECT_FALSE(After({1.0, 3.1, 9.0, 1.5, 4.0, 4.0}).diverged());
}

TEST(LossWatch, TheLevelFollowsALossThatFalls) {
  std::vector<double> losses;
  for (int i = 0; i < 40; ++i) losses.push_back(10 * std::pow(0.9, i));
  // It trails: at most a third of its way behind, so that the start of a run is watched as well.
  EXPECT_LT(After(losses).lowest_level, 1.5 * losses.back());
  losses.insert(losses.end(), {2, 2, 2});
  EXPECT_TRUE(After(losses).diverged());
}

TEST(LossWatch, OneLuckyBatchSetsNoMark) {
  EXPECT_FALSE(After({1.0, 1.0, 1e-6, 1.0, 1.0, 1.0, 1.0}).high());
  // Nor does a batch in which all went well turn the watch off.
  EXPECT_TRUE(After({1.0, 1.0, 0.0, 1.0, 5.0, 5.0, 5.0}).diverged());
}

// Preference that has been learned: what is left of the loss is noise.
TEST(LossWatch, ALossThatIsNearlyNothingMayRiseManyTimes) {
  std::vector<double> losses = {0.69, 0.2, 1e-2, 1e-4};
  losses.insert(losses.end(), 30, 9e-8);
  losses.insert(losses.end(), {1e-3, 1e-3, 1e-3});
  EXPECT_FALSE(After(losses).high());
  losses.insert(losses.end(), 3, 0.5);
  EXPECT_TRUE(After(losses).diverged());
  EXPECT_FALSE(After(losses, std::log(2)).high());
}

TEST(LossWatch, WithoutAFactorNothingIsHigh) {
  LossWatch watch;
  for (const double loss : {1.0, 50.0, 500.0, 5000.0}) watch.Add(loss, 0, kNegligible);
  EXPECT_FALSE(watch.high());
}

}  // namespace
}  // namespace mambad::trainer
