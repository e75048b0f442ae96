// Forecasts by numbers that can be played by hand.

#include "engine/wait_forecast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mambad {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;

const absl::Time kStart = absl::FromUnixSeconds(1000);

absl::Time At(double seconds) { return kStart + absl::Seconds(seconds); }

TEST(WaitForecast, PlacesComeFreeAsTheRunningOnesEnd) {
  // Two slots that end after 1 and 4 s; those who wait take 2 s each.
  WaitForecast forecast;
  ForecastWaits({{4, 1}, {1, 1}}, {{2, 1}, {2, 1}, {2, 1}}, 2, 2, &forecast);
  EXPECT_THAT(forecast.starts,
              ElementsAre(DoubleEq(1), DoubleEq(3), DoubleEq(4), DoubleEq(5), DoubleEq(6)));
  forecast.made = kStart;
  EXPECT_EQ(forecast.RoomAfter(0, At(0)), absl::Seconds(1));
  EXPECT_EQ(forecast.RoomAfter(1, At(0)), absl::Seconds(3));
  EXPECT_EQ(forecast.StartOf(0, At(0)), absl::Seconds(5));  // behind three
  EXPECT_EQ(forecast.StartOf(0, At(4)), absl::Seconds(1));  // time has passed
  EXPECT_EQ(forecast.StartOf(0, At(50)), absl::ZeroDuration());
  EXPECT_EQ(forecast.RoomAfter(9, At(0)), absl::Seconds(12));  // goes on as it went
}

TEST(WaitForecast, ALargeRequestHoldsUpThoseBehindIt) {
  WaitForecast forecast;
  ForecastWaits({{1, 1}, {3, 1}}, {{1, 2}, {1, 1}}, 2, 0, &forecast);
  EXPECT_THAT(forecast.starts, ElementsAre(DoubleEq(3), DoubleEq(4)));
}

TEST(WaitForecast, FreeSlotsMakeNobodyWait) {
  WaitForecast forecast;
  EXPECT_EQ(forecast.StartOf(0, kStart), absl::ZeroDuration());
  ForecastWaits({{5, 1}}, {}, 2, 1, &forecast);
  EXPECT_THAT(forecast.starts, ElementsAre(DoubleEq(0)));
}

TEST(ServicePace, IsThatOfOneSequenceAmongThoseThatRun) {
  ServicePace pace;
  EXPECT_GT(pace.SecondsAToken(), 0);  // a guess
  EXPECT_GT(pace.SecondsAPromptToken(), 0);
  // Four sequences, two tokens each a step of 100 ms: 50 ms a token. A fifth of the rows are prompt.
  for (int i = 0; i < 20; ++i) pace.Observe(0.1, 4, 8, 10, 50);
  EXPECT_NEAR(pace.SecondsAToken(), 0.05, 1e-9);
  EXPECT_NEAR(pace.SecondsAPromptToken(), 0.1 * 0.2 / 10, 1e-9);
  // Ten seconds later the pace of before is forgotten.
  for (int i = 0; i < 50; ++i) pace.Observe(0.2, 4, 4, 0, 4);
  EXPECT_NEAR(pace.SecondsAToken(), 0.2, 0.01);
  pace.Observe(0, 1, 1, 0, 1);  // no time: nothing learned
  pace.Observe(-5, 1, 1, 0, 1);
  EXPECT_NEAR(pace.SecondsAToken(), 0.2, 0.01);
}

TEST(ServicePace, LearnsHowLongAnswersAre) {
  ServicePace pace;
  EXPECT_EQ(pace.TokensLeft(0, 60, true), 60);
  EXPECT_EQ(pace.TokensLeft(45, 60, true), 15);
  for (int i = 0; i < 100; ++i) pace.ObserveAnswer(10, 100, true);  // a tenth of what they name
  EXPECT_NEAR(pace.TokensLeft(0, 200, true), 20, 0.1);
  EXPECT_NEAR(pace.TokensLeft(40, 200, true), 10, 0.1);  // longer than expected: a quarter more
  EXPECT_EQ(pace.TokensLeft(199, 200, true), 1);
  EXPECT_EQ(pace.TokensLeft(300, 200, true), 0);
  EXPECT_EQ(pace.TokensLeft(0, 100000, false), 256);
  for (int i = 0; i < 100; ++i) pace.ObserveAnswer(40, 100000, false);
  EXPECT_NEAR(pace.TokensLeft(0, 100000, false), 40, 0.1);
}

}  // namespace
}  // namespace mambad
