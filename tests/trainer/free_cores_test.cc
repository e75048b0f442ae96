#include "trainer/free_cores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace mambad::trainer {
namespace {

using ::testing::HasSubstr;

// user nice system idle iowait irq softirq steal guest guest_nice
constexpr char kBefore[] =
    "cpu  0 0 0 0 0 0 0 0 0 0\n"
    "cpu0 100 0 10 1000 5 0 0 0 0 0\n"
    "cpu1 100 50 10 1000 5 0 0 0 0 0\n"
    "cpu2 7 7 7 7 7 7 7 7 0 0\n"
    "intr 5\n";
constexpr char kAfter[] =
    "cpu  0 0 0 0 0 0 0 0 0 0\n"
    "cpu0 112 0 13 1005 5 0 0 0 0 0\n"   // 15 of 20 used
    "cpu1 100 65 10 1005 5 0 0 0 0 0\n"  // 15 of 20 at a low priority
    "cpu2 7 7 7 7 7 7 7 7 0 0\n"
    "intr 9\n";

TEST(FreeCores, AreWhatOthersLeave) {
  const auto first_two = [](int core) { return core < 2; };
  const CoreUse use = UseBetween(kBefore, kAfter, first_two, /*low_counts=*/false);
  EXPECT_EQ(use.cores, 2);
  EXPECT_DOUBLE_EQ(use.free, 1.25);
  EXPECT_DOUBLE_EQ(UseBetween(kBefore, kAfter, first_two, /*low_counts=*/true).free, 0.5);
  EXPECT_EQ(UseBetween("", "", first_two, false).cores, 0);
  EXPECT_GE(LookAtCores().cores, 1);
}

TEST(FreeCores, AdviceIsGivenWhereItIsNeeded) {
  EXPECT_EQ(ThreadAdvice(1, {2, 0.0}), "");
  EXPECT_EQ(ThreadAdvice(2, {2, 1.9}), "");
  EXPECT_EQ(ThreadAdvice(4, {0, 0}), "");
  EXPECT_THAT(ThreadAdvice(8, {8, 3.2}),
              HasSubstr("other programs leave 3.2 of 8 cores: threads: 3 may be faster"));
  EXPECT_THAT(ThreadAdvice(2, {2, 0.1}), HasSubstr("threads: 1 may be faster"));
  EXPECT_THAT(ThreadAdvice(64, {2, 2.0}), HasSubstr("64 threads on 2 cores"));
}

}  // namespace
}  // namespace mambad::trainer
