// The choice of threads against machines made up of formulas: how much slower it is than the best
// number of threads would be all the time.

#include "kernels/cpu/thread_choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <set>

namespace mambad::kernels {
namespace {

// Seconds of a pass with so many threads.
using Machine = std::function<double(int threads)>;

struct Result {
  double seconds = 0, best_seconds = 0;
  int threads = 0;  // at the end
  // Of the best number's speed.
  double Share() const { return best_seconds / seconds; }
};

Result Simulate(ThreadChoice& choice, const Machine& machine, int most, double seconds) {
  Result result;
  while (result.seconds < seconds) {
    double best = INFINITY;
    for (int threads = 1; threads <= most; ++threads) best = std::min(best, machine(threads));
    const double taken = machine(choice.threads());
    result.seconds += taken;
    result.best_seconds += best;
    choice.Observe(taken, 1);
  }
  result.threads = choice.threads();
  return result;
}

double Idle(int threads) { return 0.001 / threads; }

TEST(ThreadChoiceTest, StaysWithAllThreadsWhereTheyHelp) {
  for (const int most : {1, 2, 4, 16}) {
    ThreadChoice choice(most);
    const Result result = Simulate(choice, Idle, most, 30);
    EXPECT_EQ(result.threads, most);
    EXPECT_GE(result.Share(), 0.98) << most;
  }
}

TEST(ThreadChoiceTest, TakesOneThreadWhereMoreAreSlower) {
  ThreadChoice choice(2);
  const Result result = Simulate(
      choice, [](int threads) { return threads == 1 ? 0.001 : 0.0012; }, 2, 10);
  EXPECT_EQ(result.threads, 1);
  EXPECT_GE(result.Share(), 0.98);
}

// A neighbour on one of two cores, as it was measured with parts that were dealt out.
TEST(ThreadChoiceTest, LosesLittleWhereMoreThreadsAreRuinous) {
  ThreadChoice choice(2);
  const Result result = Simulate(
      choice, [](int threads) { return threads == 1 ? 0.00025 : 0.0044; }, 2, 20);
  EXPECT_EQ(result.threads, 1);
  EXPECT_GE(result.Share(), 0.97);
}

TEST(ThreadChoiceTest, FindsANumberInTheMiddle) {
  ThreadChoice choice(16);
  const Machine bandwidth = [](int threads) {
    return 0.004 / std::min(threads, 4) + 0.0001 * threads;
  };
  const Result result = Simulate(choice, bandwidth, 16, 30);
  EXPECT_EQ(result.threads, 4);
  EXPECT_GE(result.Share(), 0.95);
}

// A neighbour comes, stays and goes.
TEST(ThreadChoiceTest, FollowsTheLoad) {
  ThreadChoice choice(2);
  const Machine busy = [](int threads) { return threads == 1 ? 0.0011 : 0.008; };
  EXPECT_GE(Simulate(choice, Idle, 2, 20).Share(), 0.97);
  const Result during = Simulate(choice, busy, 2, 20);
  EXPECT_EQ(during.threads, 1);
  EXPECT_GE(during.Share(), 0.95);
  const Result after = Simulate(choice, Idle, 2, 40);
  EXPECT_EQ(after.threads, 2);
  EXPECT_GE(after.Share(), 0.9);
}

// Passes that now and then take ten times as long, whatever the number.
TEST(ThreadChoiceTest, IsNotMisledByNoise) {
  std::mt19937 random(1);
  ThreadChoice choice(2);
  const Machine noisy = [&](int threads) {
    return 0.001 / threads * (0.8 + 0.4 * (random() % 1000) * 1e-3) * (random() % 50 == 0 ? 10 : 1);
  };
  double seconds = 0, two = 0;
  while (seconds < 60) {
    const double taken = noisy(choice.threads());
    seconds += taken;
    if (choice.threads() == 2) two += taken;
    choice.Observe(taken, 1);
  }
  EXPECT_GE(two / seconds, 0.9);
}

TEST(ThreadChoiceTest, SlowPassesAreTriedToo) {
  ThreadChoice choice(2);
  const Result result = Simulate(
      choice, [](int threads) { return threads == 1 ? 1.0 : 2.0; }, 2, 60);
  EXPECT_EQ(result.threads, 1);
}

// Prompts: few passes, and a trial with half the threads takes as long as two of them.
TEST(ThreadChoiceTest, TrialsCostSlowPassesLittle) {
  ThreadChoice choice(2);
  const Machine slow = [](int threads) { return 1.0 / threads; };
  EXPECT_EQ(Simulate(choice, slow, 2, 4.5).Share(), 1) << "the first passes";
  const Result result = Simulate(choice, slow, 2, 60);
  EXPECT_EQ(result.threads, 2);
  EXPECT_GE(result.Share(), 0.95);
}

TEST(ThreadChoiceTest, EachFewRowsAndEachPowerOfTwoHaveTheirOwn) {
  ThreadChoices choices(2);
  std::set<const ThreadChoice*> seen;
  for (const int64_t rows : {1, 2, 3, 4, 5, 9, 17, 33, 65, 129, 257, 513, 1025, 2049})
    EXPECT_TRUE(seen.insert(&choices.ForRows(rows)).second) << rows;
  EXPECT_EQ(&choices.ForRows(5), &choices.ForRows(8));
  EXPECT_EQ(&choices.ForRows(17), &choices.ForRows(32));
  EXPECT_EQ(&choices.ForRows(int64_t{1} << 40), &choices.ForRows(int64_t{1} << 41));
  EXPECT_EQ(&choices.ForRows(0), &choices.ForRows(1));
}

}  // namespace
}  // namespace mambad::kernels
