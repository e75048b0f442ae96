#include "trainer/thread_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace mambad::trainer {
namespace {

using ::testing::ElementsAre;

std::vector<int> CountsOf(const std::vector<ThreadTime>& times) {
  std::vector<int> counts;
  for (const ThreadTime& time : times) counts.push_back(time.threads);
  return counts;
}

TEST(ThreadChoice, NumbersGoUpToAllThreads) {
  const auto counts = [](int most) { return CountsOf(TimeThreads(most, [](int) { return 1.0; })); };
  EXPECT_THAT(counts(1), ElementsAre(1));
  EXPECT_THAT(counts(2), ElementsAre(1, 2));
  EXPECT_THAT(counts(8), ElementsAre(1, 2, 4, 8));
  EXPECT_THAT(counts(12), ElementsAre(1, 2, 4, 8, 12));
}

// What passes while one number has its turn must not decide.
TEST(ThreadChoice, NumbersTakeTurnsAndTheMedianOfEachCounts) {
  std::vector<int> order;
  const std::map<int, std::vector<double>> measured = {{1, {4, 4, 4, 50, 5}},
                                                       {2, {90, 2, 1, 3, 70}}};
  std::map<int, size_t> turns;
  const auto times = TimeThreads(2, [&](int threads) {
    order.push_back(threads);
    return measured.at(threads).at(turns[threads]++);
  });
  EXPECT_THAT(order, ElementsAre(1, 2, 1, 2, 1, 2, 1, 2, 1, 2));
  ASSERT_EQ(times.size(), 2u);
  EXPECT_EQ(times[0].seconds, 4);
  EXPECT_EQ(times[1].seconds, 3);
}

TEST(ThreadChoice, TheFastestIsTaken) {
  EXPECT_EQ(FastestThreads({{1, 4e-3}, {2, 2.1e-3}}), 2);
  EXPECT_EQ(FastestThreads({{1, 4e-3}, {2, 36e-3}}), 1);  // a neighbour holds the second core
  EXPECT_EQ(FastestThreads({{1, 8e-3}, {2, 4e-3}, {4, 2e-3}, {8, 9e-3}}), 4);
  EXPECT_EQ(FastestThreads({{1, 4e-3}, {2, 4e-3}}), 1);
  EXPECT_EQ(FastestThreads({{1, 4e-3}}), 1);
}

TEST(ThreadChoice, OneLineTellsChoiceTimesAndSetting) {
  EXPECT_EQ(ThreadChoiceWords({{1, 4.123e-3}, {2, 0.036}}),
            "1 thread, the fastest as measured at the start, whatever runs beside later (a product "
            "takes 4.12 ms with 1, 36 ms with 2); threads: N sets the number");
  EXPECT_THAT(ThreadChoiceWords({{1, 4e-3}, {2, 2e-3}}), ::testing::StartsWith("2 threads, "));
}

}  // namespace
}  // namespace mambad::trainer
