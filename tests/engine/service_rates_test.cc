// Rates by a clock of the test's own.

#include "engine/service_rates.h"

#include "gtest/gtest.h"

namespace mambad {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000000);

absl::Time At(double seconds) { return kStart + absl::Seconds(seconds); }

TEST(RecentRates, AreThoseOfTheLastTenSecondsAndFallToNothing) {
  RecentRates rates;
  EXPECT_EQ(rates.TokensPerSecond(At(0)), 0);
  for (int i = 0; i < 100; ++i) rates.Add(At(0.25 * i), 5, 4, 3);  // 20 a second for 25 s
  EXPECT_NEAR(rates.TokensPerSecond(At(24.9)), 20, 1.1);
  EXPECT_NEAR(rates.AcceptanceRate(At(24.9)), 0.75, 1e-9);
  const double later = rates.TokensPerSecond(At(30));
  EXPECT_GT(later, 5);
  EXPECT_LT(later, 15);
  EXPECT_EQ(rates.TokensPerSecond(At(36)), 0);
  EXPECT_EQ(rates.AcceptanceRate(At(36)), 0);
}

TEST(RecentRates, AreNotThinnedByTimeBeforeTheFirstToken) {
  RecentRates rates;
  for (int i = 0; i < 20; ++i) rates.Add(At(0.1 * i), 1, 0, 0);
  EXPECT_NEAR(rates.TokensPerSecond(At(2)), 10, 0.1);
  EXPECT_EQ(rates.AcceptanceRate(At(2)), 0);
}

TEST(RecentRates, SurviveClocksThatAreSetBack) {
  RecentRates rates;
  rates.Add(At(0), 7, 0, 0);
  rates.Add(At(-3600), 3, 0, 0);
  rates.Add(absl::InfinitePast(), 3, 0, 0);
  EXPECT_GE(rates.TokensPerSecond(At(-3600)), 0);
  EXPECT_GE(rates.TokensPerSecond(absl::InfinitePast()), 0);
}

}  // namespace
}  // namespace mambad
