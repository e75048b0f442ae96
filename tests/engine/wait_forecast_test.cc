// Forecasts by numbers that can be played by hand.

#include "engine/wait_forecast.h"

#include <gtest/gtest.h>

namespace mambad {
namespace {

ServiceDemand Takes(double seconds, int64_t slots = 1, int64_t pages = 0) {
  ServiceDemand demand;
  demand.seconds = seconds;
  demand.slots = slots;
  demand.pages = pages;
  return demand;
}

TEST(WaitForecast, PlacesComeFreeAsTheRunningOnesEnd) {
  // Two slots that end after 1 and 4 s; those who wait take 2 s each.
  WaitForecast forecast;
  forecast.Begin(2, 0, {Takes(4), Takes(1)});
  for (double start : {1, 3, 4, 5, 6}) EXPECT_DOUBLE_EQ(forecast.Add(Takes(2)), start);
}

TEST(WaitForecast, ALargeRequestHoldsUpThoseBehindIt) {
  WaitForecast forecast;
  forecast.Begin(2, 0, {Takes(1), Takes(3)});
  EXPECT_DOUBLE_EQ(forecast.Add(Takes(1, 2)), 3);
  EXPECT_DOUBLE_EQ(forecast.Add(Takes(1)), 4);
}

TEST(WaitForecast, PagesAreWaitedForLikeSlots) {
  WaitForecast forecast;
  forecast.Begin(8, 10, {Takes(2, 1, 6)});
  EXPECT_DOUBLE_EQ(forecast.Add(Takes(5, 1, 4)), 0);
  EXPECT_DOUBLE_EQ(forecast.Add(Takes(1, 1, 4)), 2);
  EXPECT_DOUBLE_EQ(forecast.Add(Takes(1, 1, 4)), 3);
}

TEST(WaitForecast, PromptsAreReadOneAfterTheOther) {
  WaitForecast forecast;
  ServiceDemand demand = Takes(1);
  demand.reading = 10;
  forecast.Begin(2, 0, {demand, demand});      // end after 11 and 21 s
  EXPECT_DOUBLE_EQ(forecast.Add(demand), 11);  // read from 20 s to 30 s
  EXPECT_DOUBLE_EQ(forecast.Add(Takes(1)), 21);
  EXPECT_DOUBLE_EQ(forecast.Add(Takes(1)), 22);
}

TEST(WaitForecast, FreeSlotsMakeNobodyWait) {
  WaitForecast forecast;
  forecast.Begin(2, 0, {Takes(5)});
  EXPECT_DOUBLE_EQ(forecast.Add(Takes(1)), 0);
}

StepPace Step(double seconds, int decoding, int64_t tokens, int64_t prompt_rows, int64_t rows) {
  StepPace step;
  step.seconds = seconds;
  step.decoding = decoding;
  step.tokens = tokens;
  step.prompt_rows = prompt_rows;
  step.rows = rows;
  return step;
}

TEST(ServicePace, IsThatOfOneSequenceAmongThoseThatRun) {
  ServicePace pace;
  EXPECT_GT(pace.SecondsAToken(), 0);  // a guess
  EXPECT_GT(pace.SecondsAPromptToken(), 0);
  // Four sequences, two tokens each a step of 100 ms: 50 ms a token. A fifth of the rows are
  // prompt.
  for (int i = 0; i < 20; ++i) pace.Observe(Step(0.1, 4, 8, 10, 50));
  EXPECT_NEAR(pace.SecondsAToken(), 0.05, 1e-9);
  EXPECT_NEAR(pace.SecondsAPromptToken(), 0.1 * 0.2 / 10, 1e-9);
  // Ten seconds later the pace of before is forgotten.
  for (int i = 0; i < 50; ++i) pace.Observe(Step(0.2, 4, 4, 0, 4));
  EXPECT_NEAR(pace.SecondsAToken(), 0.2, 0.01);
  pace.Observe(Step(0, 1, 1, 0, 1));  // no time: nothing learned
  pace.Observe(Step(-5, 1, 1, 0, 1));
  EXPECT_NEAR(pace.SecondsAToken(), 0.2, 0.01);
}

TEST(ServicePace, WhatIsDoubtedIsAGuessUntilTheFirstMeasurement) {
  ServicePace pace;
  for (int i = 0; i < 20; ++i) pace.Observe(Step(0.1, 1, 1, 0, 1));
  pace.ObserveAnswer(10, 100, true);
  pace.Doubt();
  EXPECT_NEAR(pace.SecondsAToken(), 0.1, 1e-9);
  EXPECT_EQ(pace.TokensLeft(0, 60, true), 60);
  pace.Observe(Step(0.3, 1, 1, 0, 1));
  EXPECT_NEAR(pace.SecondsAToken(), 0.3, 0.03);
}

TEST(ServicePace, AnswersThatRunOnShowThatAnswersHaveBecomeLonger) {
  ServicePace pace;
  for (int i = 0; i < 100; ++i) pace.ObserveAnswer(40, 100000, false);
  pace.ObserveRunning(50);
  EXPECT_NEAR(pace.TokensLeft(0, 100000, false), 40, 0.1);
  pace.ObserveRunning(120);
  EXPECT_NEAR(pace.TokensLeft(0, 100000, false), 120, 0.1);
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
