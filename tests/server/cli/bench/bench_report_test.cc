#include "server/cli/bench/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mambad::cli {
namespace {

TEST(BenchReportTest, PercentilesInterpolate) {
  EXPECT_DOUBLE_EQ(Percentile({1, 2, 3, 4, 5}, 0.5), 3);
  EXPECT_DOUBLE_EQ(Percentile({1, 2, 3, 4, 5}, 0.9), 4.6);
  EXPECT_DOUBLE_EQ(Percentile({1, 2}, 0.99), 1.99);
  EXPECT_DOUBLE_EQ(Percentile({7}, 0.99), 7);
  EXPECT_DOUBLE_EQ(Percentile({1, 2}, 1), 2);
}

BenchSample Sample(double first_token, double end_to_end, int64_t tokens) {
  BenchSample sample;
  sample.first_token = first_token;
  sample.end_to_end = end_to_end;
  sample.completion_tokens = tokens;
  sample.drafted = 10;
  sample.accepted = 4;
  return sample;
}

TEST(BenchReportTest, CountsRatesAndGoodput) {
  std::vector<BenchSample> samples = {Sample(0.1, 1.1, 11), Sample(0.3, 0.8, 6),
                                      Sample(0.1, 0.1, 1)};
  samples.emplace_back().code = "RESOURCE_EXHAUSTED";
  BenchGoals goals;
  goals.first_token = 0.2;
  const auto report =
      nlohmann::json::parse(BenchReport(samples, 2.0, goals).Json(), nullptr, false);
  ASSERT_TRUE(report.is_object());
  EXPECT_EQ(report["requests"], 4);
  EXPECT_DOUBLE_EQ(report["goodput_per_second"], 1.0);  // two of them in two seconds
  EXPECT_DOUBLE_EQ(report["tokens_per_second"], 9.0);
  EXPECT_DOUBLE_EQ(report["acceptance_rate"], 0.4);
  EXPECT_NEAR(report["tpot_ms"]["mean"].get<double>(), 100.0, 1e-9);  // both that have one
  EXPECT_EQ(report["tpot_ms"]["count"], 2);
  EXPECT_EQ(report["codes"]["RESOURCE_EXHAUSTED"], 1);
  EXPECT_DOUBLE_EQ(report["requests_per_second"], 1.5);  // those that were answered
}

TEST(BenchReportTest, TellsWhetherHintsWereRight) {
  std::vector<BenchSample> samples = {Sample(1, 2, 10), Sample(1, 2, 10), Sample(1, 2, 10)};
  samples[0].refusals = {{0.001, 1.0, 1.9}, {0.003, 0.5, 0.7}};
  samples[1].refusals = {{0.002, 1.0, 2.1}};           // too early
  samples[2].refusals = {{0.002, 1.0, std::nullopt},   // never let in
                         {0.002, std::nullopt, 3.0}};  // not told
  const BenchReport report(samples, 1.0, {});
  const auto json = nlohmann::json::parse(report.Json(), nullptr, false);
  EXPECT_EQ(json["refusals"], 5);
  EXPECT_EQ(json["hints"], 3);
  EXPECT_EQ(json["hints_within_factor_2"], 2);
  EXPECT_NEAR(json["refused_ms"]["max"].get<double>(), 3, 1e-9);
  EXPECT_THAT(report.Table(),
              testing::HasSubstr("of 3 that came back, 66.7 % were let in as told"));
}

TEST(BenchReportTest, FurtherTurnsHaveARowOfTheirOwn) {
  std::vector<BenchSample> samples = {Sample(1, 2, 10), Sample(0.25, 2, 10)};
  EXPECT_FALSE(nlohmann::json::parse(BenchReport(samples, 1.0, {}).Json())
                   .contains("ttft_further_turns_ms"));
  samples[1].goes_on = true;
  samples[1].prompt_tokens = 40;
  samples[1].cached_tokens = 30;
  const BenchReport report(samples, 1.0, {});
  const auto json = nlohmann::json::parse(report.Json());
  EXPECT_DOUBLE_EQ(json["ttft_further_turns_ms"]["p50"], 250);
  EXPECT_EQ(json["ttft_ms"]["count"], 2);
  EXPECT_EQ(json["cached_tokens"], 30);
  EXPECT_THAT(report.Table(), testing::HasSubstr("75.0 % of these from states at hand"));
  ASSERT_EQ(report.Curves().size(), 4u);  // none of what was not measured
  EXPECT_THAT(report.Curves()[0].times, testing::ElementsAre(250, 1000));
}

}  // namespace
}  // namespace mambad::cli
