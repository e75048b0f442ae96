// The engine's door by itself, by times of the test's own. Whether its hints come true under a load
// is wait_forecast_simulation_test's to say.

#include "engine/intake.h"

#include <algorithm>
#include <memory>
#include <set>
#include <string>

#include "absl/time/time.h"
#include "engine/retry_delay.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"

namespace mambad::testing {
namespace {

using ::testing::HasSubstr;

class IntakeTest : public ::testing::Test {
 protected:
  // One slot unless the options say otherwise, and nobody may wait.
  void Open(int max_sequences = 1, int max_waiting = 0, int64_t max_waiting_tokens = 1 << 20) {
    EngineOptions options;
    options.max_sequences = max_sequences;
    options.max_waiting = max_waiting;
    options.max_waiting_tokens = max_waiting_tokens;
    driver_ = std::make_unique<EngineDriver>("mamba", "", options);
    const EngineCore& core = driver_->core();
    intake_ = std::make_unique<Intake>(core.capacity(), core.facts().options, core.stats(),
                                       core.demands());
  }
  // By its seed no request is another's.
  absl::Status Ask(int prompt, int tokens, uint64_t seed, double seconds = 0) {
    return intake_->Ask(driver_->Plain(prompt, tokens, seed), kStart + absl::Seconds(seconds));
  }
  void Publish() { intake_->Publish(driver_->core().stats(), driver_->core().demands()); }
  // What one is told who is refused.
  double Told(int prompt, int tokens, uint64_t seed, double seconds) {
    const absl::Status status = Ask(prompt, tokens, seed, seconds);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    return absl::ToDoubleSeconds(RetryDelayOf(status));
  }

  const absl::Time kStart = absl::FromUnixSeconds(1000000);
  std::unique_ptr<EngineDriver> driver_;
  std::unique_ptr<Intake> intake_;
};

TEST_F(IntakeTest, WhoFindsASlotFreeDoesNotWait) {
  Open(/*max_sequences=*/2, /*max_waiting=*/1);
  for (uint64_t seed = 0; seed < 3; ++seed) EXPECT_TRUE(Ask(4, 100, seed).ok()) << seed;
  const absl::Status full = Ask(4, 100, 3);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(full.message(), "the queue is full: 3 requests wait");
}

// Whatever it holds, a request that nothing waits before would fit no better later.
TEST_F(IntakeTest, TokensAreBoundedWhereSomethingWaitsAlready) {
  Open(/*max_sequences=*/1, /*max_waiting=*/8, /*max_waiting_tokens=*/10);
  EXPECT_TRUE(Ask(50, 2, 0).ok());
  EXPECT_EQ(Ask(1, 2, 1).message(), "the queue is full: 50 prompt tokens wait");
}

TEST_F(IntakeTest, WhatTheCoreReportsIsCountedOnce) {
  Open(/*max_sequences=*/1, /*max_waiting=*/8);
  for (uint64_t seed = 0; seed < 3; ++seed) ASSERT_TRUE(Ask(4, 100, seed).ok());
  EXPECT_EQ(intake_->waiting(), 3);
  intake_->HandOver();
  ASSERT_TRUE(Ask(4, 100, 3).ok());  // after the others were handed over
  for (uint64_t seed = 0; seed < 3; ++seed) driver_->Send(driver_->Plain(4, 100, seed));
  driver_->core().Step([this] { return kStart; });
  Publish();
  EXPECT_EQ(intake_->waiting(), 2 + 1);
}

TEST_F(IntakeTest, TheWaitIsNothingWhereNothingRunsAndTenMinutesAtMost) {
  Open();
  EXPECT_EQ(intake_->EstimatedWait(kStart), absl::ZeroDuration());
  ASSERT_TRUE(Ask(4, 32000, 0).ok());
  EXPECT_EQ(intake_->EstimatedWait(kStart), absl::Minutes(10));
}

TEST_F(IntakeTest, WhoComesBackAsToldKeepsItsPlaceInTheLine) {
  Open();
  ASSERT_TRUE(Ask(4, 100, 0).ok());
  const double first = Told(4, 100, 1, 0), second = Told(4, 100, 2, 0.1);
  EXPECT_GT(second, 1.5 * first);
  // Nothing has moved meanwhile.
  const double again = Told(4, 100, 1, first);
  EXPECT_LT(again, second - first);
  EXPECT_GT(Told(4, 100, 3, first + 0.1), again + first);
}

// But for a slot that would be idle.
TEST_F(IntakeTest, PlacesAreKeptForThoseWhoAreAboutToComeBack) {
  Open(/*max_sequences=*/1, /*max_waiting=*/2);
  for (uint64_t seed = 0; seed < 3; ++seed) ASSERT_TRUE(Ask(4, 100, seed).ok());
  const double first = Told(4, 100, 3, 0), second = Told(4, 100, 4, 0);
  intake_->HandOver();
  Publish();
  const double soon = std::max(first, second / 2) + 0.01;  // half of what each was told is over
  EXPECT_TRUE(Ask(4, 100, 10, soon).ok()) << "the slot is free";
  EXPECT_EQ(Ask(4, 100, 11, soon).message(),
            "the queue is full: 1 requests wait, and 2 more, refused before, are expected now");
  EXPECT_TRUE(Ask(4, 100, 3, soon).ok());
  EXPECT_TRUE(Ask(4, 100, 4, second).ok());
}

// Smaller ones pass a large one that waits outside.
TEST_F(IntakeTest, PlacesAreKeptByPromptTokensToo) {
  Open(/*max_sequences=*/1, /*max_waiting=*/100, /*max_waiting_tokens=*/10);
  ASSERT_TRUE(Ask(8, 100, 0).ok());
  const double large = Told(8, 100, 1, 0), small = Told(4, 100, 2, 0);
  intake_->HandOver();
  Publish();
  const double soon = std::max(large, small) / 2 + 0.01;
  ASSERT_TRUE(Ask(2, 100, 3, soon).ok());
  EXPECT_TRUE(Ask(2, 100, 4, soon).ok());
  EXPECT_EQ(
      Ask(4, 100, 5, soon).message(),
      "the queue is full: 4 prompt tokens wait, and 4 more, refused before, are expected now");
  EXPECT_TRUE(Ask(2, 100, 6, soon).ok());
  EXPECT_TRUE(Ask(4, 100, 2, small).ok());
}

TEST_F(IntakeTest, WhoAsksAllTheTimeHasOnePlace) {
  Open();
  ASSERT_TRUE(Ask(4, 100, 0).ok());
  for (int i = 0; i < 20; ++i) Told(4, 100, 1, 0.1 * i);
  // As after one.
  EXPECT_LT(Told(4, 100, 2, 2.0), 2 * 1.2 * 2.1);
}

TEST_F(IntakeTest, TheLineIsTakenToBeAsLongAsOfLateItsCallersCameBack) {
  Open();
  uint64_t seed = 0;
  double now = 0;
  const auto make_room = [&] {
    intake_->HandOver();
    Publish();
  };
  // What the last of ten is told of whom none comes back.
  const auto last_of_ten = [&] {
    double told = 0;
    EXPECT_TRUE(Ask(4, 100, ++seed, now).ok());
    for (int i = 0; i < 10; ++i) told = Told(4, 100, ++seed, now);
    make_room();
    now += 100000;
    return told;
  };
  const double at_first = last_of_ten();
  for (int i = 0; i < 10; ++i) last_of_ten();
  EXPECT_LT(last_of_ten(), at_first / 2);
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(Ask(4, 100, ++seed, now).ok());
    const uint64_t caller = ++seed;
    now += Told(4, 100, caller, now);
    make_room();
    EXPECT_TRUE(Ask(4, 100, caller, now).ok());
    make_room();
  }
  EXPECT_GT(last_of_ten(), at_first / 1.3);
}

TEST_F(IntakeTest, OneAndTheSameRequestWithinAMomentIsAnotherCallers) {
  Open();
  ASSERT_TRUE(Ask(4, 100, 0).ok());
  const double first = Told(4, 100, 1, 0);
  EXPECT_GT(Told(4, 100, 1, 0.01), 1.5 * first);
}

// Of three samples that end one after the other.
TEST(QueueDemands, OfWhatRunsAreTheSlotsThatItHoldsAndThePagesThatItMayFill) {
  EngineOptions options;
  options.max_sequences = 4;
  EngineDriver driver("hybrid_mamba", "", options);
  Request request = driver.Plain(20, 60);
  request.output.samples = 3;
  request.sampling.temperature = 1;
  for (TokenId id = 0; id < 16; ++id) request.stopping.stop_token_ids.push_back(id);
  driver.Send(request);
  std::set<int64_t> seen;
  absl::Time now = absl::FromUnixSeconds(1000000);
  // So slow that the demands are made anew each time.
  while (driver.core().Step([&] { return now += absl::Seconds(1); })) {
    int64_t slots = 0, pages = 0;
    for (const ServiceDemand& demand : driver.core().demands().queue().running) {
      slots += demand.slots;
      pages += demand.pages;
    }
    EXPECT_EQ(slots, driver.core().stats().slots_used);
    EXPECT_GE(pages, driver.core().stats().pages_used);
    seen.insert(slots);
  }
  EXPECT_THAT(seen, ::testing::IsSupersetOf({1, 3}));
}

TEST(RetryDelay, IsASecondWhereAStatusDoesNotSay) {
  const absl::Status plain = absl::ResourceExhaustedError("full");
  EXPECT_EQ(RetryDelayOf(plain), absl::Seconds(1));
  EXPECT_EQ(RetryDelayOf(WithRetryDelay(plain, absl::Microseconds(1500))),
            absl::Microseconds(1500));
}

}  // namespace
}  // namespace mambad::testing
