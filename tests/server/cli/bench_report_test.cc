#include "server/cli/bench_report.h"

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
}

}  // namespace
}  // namespace mambad::cli
