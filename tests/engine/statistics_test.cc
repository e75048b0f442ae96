// What the core counts, and whose time it says a step was; by a clock of the test's own.

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"

namespace mambad::testing {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000000);

// Every reading is a tenth of a second after the one before: a step takes that long.
class Ticking {
 public:
  absl::Time operator()() const { return now = now + absl::Milliseconds(100); }
  mutable absl::Time now = kStart;
};

TEST(Statistics, PromptRowsCountOnceHoweverTheyAreRead) {
  for (int rows : {8, 9, 256}) {  // 9: the last row of the prompt is read alone
    EngineOptions options;
    options.max_sequences = 3;
    options.max_step_rows = rows;
    options.max_draft_length = 1;
    EngineDriver driver("hybrid_mamba", "", options);
    const EngineStats& stats = driver.core().stats();
    driver.Run(driver.Plain(1, 4));
    EXPECT_EQ(stats.prompt_tokens, 1) << rows;
    driver.Run(driver.Plain(10, 4));
    EXPECT_EQ(stats.prompt_tokens, 11) << rows;
    Request samples = driver.Plain(20, 4);
    samples.output.samples = 3;
    driver.Run(samples);
    EXPECT_EQ(stats.prompt_tokens, 31) << rows;
    EXPECT_EQ(stats.generation_tokens, 4 + 4 + 12) << rows;
  }
}

TEST(Statistics, TimesAreTheCallersClock) {
  EngineDriver driver("mamba");
  Ticking clock;
  auto sink = std::make_shared<CollectingSink>();
  ASSERT_TRUE(driver.core().Admit(1, driver.Plain(4, 3), sink, kStart).ok());
  while (driver.core().Step(clock)) {
  }
  // Readings: 1 before the prompt's step, 2 after it, which brings the first token; 4 and 6 end the
  // other two.
  const RequestStats stats = *sink->answers[0].stats;
  EXPECT_EQ(stats.queue_microseconds, 100000);
  EXPECT_EQ(stats.prefill_microseconds, 100000);
  EXPECT_EQ(stats.first_token_microseconds, 200000);
  EXPECT_EQ(stats.total_microseconds, 600000);
  EXPECT_EQ(stats.decode_microseconds, 400000);
}

TEST(Statistics, WhoNeverRanIsToldWhatItBroughtAndHowLongItWaited) {
  EngineOptions options;
  options.max_sequences = 1;
  EngineDriver driver("mamba", "", options);
  Ticking clock;
  auto first = std::make_shared<CollectingSink>(), second = std::make_shared<CollectingSink>();
  ASSERT_TRUE(driver.core().Admit(1, driver.Plain(4, 300), first, kStart).ok());
  ASSERT_TRUE(driver.core().Admit(2, driver.Plain(7, 3), second, kStart).ok());
  driver.core().Step(clock);
  driver.core().Cancel(2);
  driver.core().Step(clock);
  ASSERT_TRUE(second->answers[0].stats.has_value());
  EXPECT_EQ(second->answers[0].stats->prompt_tokens, 7);
  EXPECT_EQ(second->answers[0].stats->queue_microseconds, 300000);
  EXPECT_EQ(second->answers[0].stats->total_microseconds, 300000);
}

TEST(Statistics, DraftTimeIsTheirsWhoDrafted) {
  EngineDriver driver("mamba", "mamba2");
  Request drafting = driver.Plain(6, 40);
  drafting.speculation.mode = SpeculationMode::kDraftModel;
  drafting.speculation.draft_length = 3;
  const auto with = driver.Send(drafting);
  const auto without = driver.Send(driver.Plain(6, 40, 1));
  driver.RunAll();
  const SpeculationReport drafted = with->answers[0].stats->speculation;
  EXPECT_GT(drafted.draft_microseconds, 0);
  EXPECT_EQ(without->answers[0].stats->speculation.draft_microseconds, 0);
  EXPECT_GT(without->answers[0].stats->speculation.verify_microseconds, 0);
  // All of it is somebody's; each round may lose a part of a microsecond.
  const double all = 1e6 * driver.core().stats().draft_seconds;
  EXPECT_LE(drafted.draft_microseconds, all);
  EXPECT_GE(drafted.draft_microseconds, all - static_cast<double>(drafted.rounds) - 1);
}

// A step's report and what it added to the sums.
class LastStep : public StepObserver {
 public:
  void OnStep(const StepReport& report) override { last = report; }
  StepReport last;
};

TEST(Statistics, AMixedStepsTimeIsSharedByRows) {
  EngineDriver driver("mamba");
  LastStep observer;
  driver.core().set_observer(&observer);
  driver.Send(driver.Plain(5, 50));
  driver.core().Step(absl::Now);  // reads its prompt
  const EngineStats before = driver.core().stats();
  EXPECT_EQ(before.verify_seconds, 0);
  EXPECT_EQ(observer.last.prefill_rows, 5);
  driver.Send(driver.Plain(9, 1, 1));
  driver.core().Step(absl::Now);  // one row of the first, nine of the second
  const EngineStats& after = driver.core().stats();
  EXPECT_EQ(observer.last.rows, 10);
  EXPECT_EQ(observer.last.prefill_rows, 9);
  const double all = observer.last.verify_seconds;
  EXPECT_NEAR(after.verify_seconds, 0.1 * all, 1e-9);
  EXPECT_NEAR(after.prefill_seconds - before.prefill_seconds, 0.9 * all, 1e-9);
}

TEST(Statistics, AOneTokenPromptIsPrefillNotDecoding) {
  EngineDriver driver("mamba");
  LastStep observer;
  driver.core().set_observer(&observer);
  driver.Send(driver.Plain(1, 2));
  driver.core().Step(absl::Now);
  EXPECT_EQ(observer.last.prefill_rows, 1);
  EXPECT_EQ(driver.core().stats().verify_seconds, 0);
  driver.core().Step(absl::Now);
  EXPECT_EQ(observer.last.prefill_rows, 0);
  EXPECT_GT(driver.core().stats().verify_seconds, 0);
}

TEST(Statistics, RatesFallToNothingWhenIdle) {
  EngineDriver driver("mamba");
  Ticking clock;
  auto sink = std::make_shared<CollectingSink>();
  ASSERT_TRUE(driver.core().Admit(1, driver.Plain(4, 60), sink, kStart).ok());
  while (driver.core().Step(clock)) {
  }
  EXPECT_NEAR(driver.core().stats().generation_tokens_per_second, 5, 0.6);  // a token, two readings
  EXPECT_GT(driver.core().rates().TokensPerSecond(clock.now), 4);
  EXPECT_EQ(driver.core().rates().TokensPerSecond(clock.now + absl::Seconds(11)), 0);
}

}  // namespace
}  // namespace mambad::testing
