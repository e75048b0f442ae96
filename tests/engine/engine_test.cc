// The thread-safe shell: bursts, hasty readers, what is told to those who are refused. Its
// contract, case by case: tests/server/engine_requests_test.cc and engine_pauses_test.cc.

#include "engine/engine.h"

#include <memory>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "engine/mutex.h"
#include "engine/retry_delay.h"
#include "gtest/gtest.h"
#include "tests/engine/checked_calls.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"

namespace mambad::testing {
namespace {

// Counts tokens and ends; waits for the end.
class WaitingSink : public EventSink {
 public:
  bool OnEvent(const TokenEvent& event) override {
    MutexLock lock(&mutex_);
    tokens_ += static_cast<int64_t>(event.tokens.size());
    if (event.finish != FinishReason::kNone) {
      ++ends_;
      finish_ = event.finish;
      ended_.NotifyAll();
    }
    return true;
  }
  FinishReason Wait() {
    MutexLock lock(&mutex_);
    while (ends_ == 0) ended_.Wait(&mutex_);
    return finish_;
  }
  int ends() {
    MutexLock lock(&mutex_);
    return ends_;
  }

 private:
  Mutex mutex_;
  Condition ended_;
  int64_t tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  int ends_ ABSL_GUARDED_BY(mutex_) = 0;
  FinishReason finish_ ABSL_GUARDED_BY(mutex_) = FinishReason::kNone;
};

// Holds the engine thread at its steps until told to go on.
class HoldingObserver : public StepObserver {
 public:
  void OnStep(const StepReport&) override {
    MutexLock lock(&mutex_);
    while (held_) changed_.Wait(&mutex_);
  }
  void GoOn() {
    MutexLock lock(&mutex_);
    held_ = false;
    changed_.NotifyAll();
  }

 private:
  Mutex mutex_;
  Condition changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = true;
};

class EngineTest : public ::testing::Test {
 protected:
  void Open(EngineOptions options, StepObserver* observer = nullptr) {
    MakeFormulaModel("hybrid_mamba").directory.Write(directory_.path(), StoredAs::kFloat32);
    options.model = directory_.path();
    options.threads = 1;
    absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Open(Checked(options), observer);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }
  Request Plain(int prompt, int max_tokens) const {
    Request request;
    request.prompt = FormulaTokens(prompt, engine_->model().vocabulary);
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    return request;
  }
  // The final event comes before the numbers are published.
  void ExpectNothingHeld() {
    for (int i = 0; i < 2000; ++i) {
      const EngineStats stats = engine_->Stats();
      if (stats.slots_used + stats.pages_used + stats.running + stats.waiting == 0) return;
      absl::SleepFor(absl::Milliseconds(1));
    }
    ADD_FAILURE() << "slots, pages or queue places are still held";
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, ABurstIsRefusedAtTheDoorAndNeverAfterwards) {
  EngineOptions options;
  options.max_sequences = 2;
  options.max_waiting = 3;
  Open(options);
  std::vector<std::shared_ptr<WaitingSink>> accepted;
  int refused = 0;
  for (int i = 0; i < 40; ++i) {
    auto sink = std::make_shared<WaitingSink>();
    const absl::StatusOr<RequestId> id = engine_->Submit(Plain(60, 60), sink);
    if (id.ok()) {
      accepted.push_back(sink);
    } else {
      EXPECT_EQ(id.status().code(), absl::StatusCode::kResourceExhausted);
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
  for (const auto& sink : accepted) EXPECT_EQ(sink->Wait(), FinishReason::kLength);
  ExpectNothingHeld();
}

TEST_F(EngineTest, OpeningLeavesNothingInTheNumbers) {
  Open({});
  EXPECT_TRUE(engine_->self_check().ok()) << engine_->self_check();
  const EngineStats stats = engine_->Stats();
  EXPECT_EQ(stats.steps + stats.prompt_tokens + stats.generation_tokens + stats.draft_tokens, 0);
  EXPECT_EQ(stats.self_check_failures, 0);
  EXPECT_TRUE(stats.speculation_enabled);
}

// Stays in its first event until told to go on.
class LingeringSink : public WaitingSink {
 public:
  bool OnEvent(const TokenEvent& event) override {
    {
      MutexLock lock(&lingering_);
      while (lingers_) ended_lingering_.Wait(&lingering_);
    }
    return WaitingSink::OnEvent(event);
  }
  void GoOn() {
    MutexLock lock(&lingering_);
    lingers_ = false;
    ended_lingering_.NotifyAll();
  }

 private:
  Mutex lingering_;
  Condition ended_lingering_;
  bool lingers_ ABSL_GUARDED_BY(lingering_) = true;
};

// What a reader does with its news is not in the way of the next steps.
TEST_F(EngineTest, StepsGoOnWhileReadersAreTold) {
  Open({});
  const auto sink = std::make_shared<LingeringSink>();
  ASSERT_TRUE(engine_->Submit(Plain(4, 50), sink).ok());
  for (int i = 0; engine_->Stats().generation_tokens < 50; ++i) {
    ASSERT_LT(i, 10000);
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(sink->ends(), 0);
  sink->GoOn();
  EXPECT_EQ(sink->Wait(), FinishReason::kLength);
  ExpectNothingHeld();
}

// Falls behind at every event, and has always caught up soon after: by another thread, now before
// the engine knows of the pause, now after.
class HastySink : public WaitingSink {
 public:
  explicit HastySink(Engine* engine) : engine_(engine) {}
  ~HastySink() override {
    for (std::thread& reader : readers_) reader.join();
  }
  bool OnEvent(const TokenEvent& event) override {
    WaitingSink::OnEvent(event);
    if (event.finish != FinishReason::kNone) return true;
    readers_.emplace_back([engine = engine_, id = event.request] { engine->Resume(id); });
    return false;
  }

 private:
  Engine* const engine_;
  std::vector<std::thread> readers_;
};

TEST_F(EngineTest, NoPauseIsForEverAndNoneIsLost) {
  Open({});
  std::vector<std::shared_ptr<HastySink>> sinks;
  for (int i = 0; i < 4; ++i) {
    sinks.push_back(std::make_shared<HastySink>(engine_.get()));
    ASSERT_TRUE(engine_->Submit(Plain(4, 60), sinks.back()).ok());
  }
  for (const auto& sink : sinks) EXPECT_EQ(sink->Wait(), FinishReason::kLength);
  ExpectNothingHeld();
}

// A burst is refused at once, and each caller is told of a place of its own, also before anything
// was measured.
TEST_F(EngineTest, RefusedOnesAreToldOneAfterTheOther) {
  EngineOptions options;
  options.max_sequences = 1;
  options.max_waiting = 2;
  HoldingObserver observer;
  Open(options, &observer);
  std::vector<std::shared_ptr<WaitingSink>> sinks;
  absl::Status refused;
  for (int i = 0; i < 10 && refused.ok(); ++i) {
    sinks.push_back(std::make_shared<WaitingSink>());
    refused = engine_->Submit(Plain(4, 400), sinks.back()).status();
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  absl::Duration before = RetryDelayOf(refused);
  absl::Time asked = absl::Now();
  EXPECT_GE(before, absl::Milliseconds(10));
  for (int i = 0; i < 5; ++i) {  // another caller each time
    refused = engine_->Submit(Plain(4, 401 + i), std::make_shared<WaitingSink>()).status();
    ASSERT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    const absl::Duration passed = absl::Now() - asked;  // or less, between the two
    EXPECT_GE(RetryDelayOf(refused), (before - passed) * 0.9) << passed;
    before = RetryDelayOf(refused);
    asked = absl::Now();
  }
  observer.GoOn();
  engine_->Drain(absl::InfinitePast());
  EXPECT_EQ(engine_->EstimatedWait(), absl::ZeroDuration());
  engine_.reset();
}

}  // namespace
}  // namespace mambad::testing
