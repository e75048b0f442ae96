#include "trainer/stop_signal.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <ctime>

namespace mambad::trainer {
namespace {

int seen_outside = 0;

TEST(StopSignals, AreNotedWhileSomebodyAsks) {
  std::signal(SIGTERM, [](int) { ++seen_outside; });
  EXPECT_EQ(StopSignals::Noted(), 0);
  {
    const StopSignals outer(false);
    {
      const StopSignals inner(false);
      std::raise(SIGTERM);
      EXPECT_EQ(StopSignals::Noted(), SIGTERM);
      // As a starter passes it on: the first one counts.
      std::raise(SIGINT);
      EXPECT_EQ(StopSignals::Noted(), SIGTERM);
    }
    EXPECT_EQ(StopSignals::Noted(), SIGTERM);
    EXPECT_EQ(seen_outside, 0);
  }
  std::raise(SIGTERM);
  EXPECT_EQ(seen_outside, 1);
  const StopSignals anew(false);
  EXPECT_EQ(StopSignals::Noted(), 0);
  std::signal(SIGTERM, SIG_DFL);
}

[[noreturn]] void SignalTwice() {
  const StopSignals signals(true);
  std::raise(SIGINT);
  timespec pause = {1, 200'000'000};
  while (nanosleep(&pause, &pause) != 0) continue;
  std::raise(SIGINT);
  _exit(0);
}

// Somebody means it.
TEST(StopSignalsDeathTest, ASecondOneLaterEndsTheProcess) {
  EXPECT_EXIT(SignalTwice(), ::testing::KilledBySignal(SIGINT),
              "trainer: SIGINT: saves its state after this step");
}

}  // namespace
}  // namespace mambad::trainer
