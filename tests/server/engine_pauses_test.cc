// What engine/engine.h promises of readers that fall behind and of Drain, over the engine and
// over the fake that stands for it in tests of the server.

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine.h"
#include "engine/steady_time.h"
#include "gtest/gtest.h"
#include "tests/server/engine_contract.h"

namespace mambad {
namespace {

using EnginePausesTest = EngineContractTest;
using EngineDrainTest = EngineContractTest;
INSTANTIATE_TEST_SUITE_P(Engines, EnginePausesTest, BothEngines(), NameOfEngine);
INSTANTIATE_TEST_SUITE_P(Engines, EngineDrainTest, BothEngines(), NameOfEngine);

// ---- readers that fall behind -------------------------------------------------------------------

TEST_P(EnginePausesTest, AReaderThatStopsGetsEverythingWhenItGoesOn) {
  Open();
  // Longer than a busy machine leaves a thread waiting that is to say that it has enough.
  const Request request = Asking(0);
  const Reader::Sample expected = Undisturbed(request);
  RequestId id = 0;
  const auto reader = std::make_shared<Reader>();
  reader->FallBehindAt(3);
  Submit(request, &id, reader);
  EXPECT_TRUE(reader->WaitForEvents(3));
  ExpectStandsStill(*reader);
  EXPECT_EQ(reader->sample().ends, 0);
  EXPECT_LT(reader->sample().tokens.size(), expected.tokens.size());
  engine_->Resume(id);
  EXPECT_TRUE(reader->Wait());
  EXPECT_EQ(reader->finish(), FinishReason::kLength);
  EXPECT_EQ(reader->sample().tokens, expected.tokens);
  EXPECT_EQ(reader->sample().text, expected.text);
}

// It has caught up, and said so, before the engine knows that it had fallen behind.
TEST_P(EnginePausesTest, AResumeMayComeBeforeItsPause) {
  Open();
  const Reader::Sample expected = Undisturbed(Asking(40));
  const auto hasty = std::make_shared<Reader>();
  hasty->FallBehindAt(0);
  hasty->OnEach([&](const TokenEvent& event) {
    if (event.finish == FinishReason::kNone) engine_->Resume(event.request);
  });
  Submit(Asking(40), nullptr, hasty);
  EXPECT_TRUE(hasty->Wait());
  EXPECT_EQ(hasty->sample().tokens, expected.tokens);
  // Long before.
  RequestId id = 0;
  const auto reader = std::make_shared<Reader>();
  reader->FallBehindAt(20);
  Submit(Asking(40), &id, reader);
  engine_->Resume(id);
  EXPECT_TRUE(reader->Wait());
  EXPECT_EQ(reader->sample().tokens, expected.tokens);
}

// Each of two samples falls behind at each of its events: one Resume too few is not enough.
TEST_P(EnginePausesTest, ARequestGoesOnWhenEveryPauseHasEnded) {
  Open();
  RequestId id = 0;
  const auto reader = std::make_shared<Reader>(2);
  reader->FallBehindAt(0);
  Submit(Asking(4, 2), &id, reader);
  ExpectStandsStill(*reader);
  EXPECT_GE(reader->times_behind(), 2);
  for (int resumed = 0; reader->sample(0).ends + reader->sample(1).ends < 2;) {
    const int pauses = reader->times_behind();
    ASSERT_LT(resumed, pauses) << "it stands still, and no pause is left";
    for (; resumed + 1 < pauses; ++resumed) engine_->Resume(id);
    ExpectStandsStill(*reader);
    ASSERT_EQ(reader->times_behind(), pauses) << "it went on before its last pause had ended";
    engine_->Resume(id);
    ++resumed;
    ExpectStandsStill(*reader);
  }
  for (int i = 0; i < 2; ++i) EXPECT_EQ(reader->sample(i).tokens.size(), 4u);
}

TEST_P(EnginePausesTest, OthersGoOnMeanwhile) {
  Open(/*running=*/2, /*waiting=*/4);
  RequestId id = 0;
  const auto reader = Hold(&id), other = Submit(Asking(30));
  EXPECT_TRUE(other->Wait());
  EXPECT_EQ(other->finish(), FinishReason::kLength);
  EXPECT_TRUE(Becomes([&] { return engine_->Stats().slots_used == 1; }));
  EXPECT_EQ(reader->sample().ends, 0);
}

// ---- drain and the end --------------------------------------------------------------------------

TEST_P(EngineDrainTest, DrainLetsWhatRunsAndWaitsGoOn) {
  Open(/*running=*/1, /*waiting=*/4);
  const auto running = Submit(Asking(40)), waiting = Submit(Asking(5));
  engine_->Drain(absl::InfiniteFuture());
  for (const auto& reader : {running, waiting}) {  // all has been told by then
    EXPECT_EQ(reader->sample().ends, 1);
    EXPECT_EQ(reader->finish(), FinishReason::kLength);
  }
  EXPECT_EQ(running->sample().tokens.size(), 40u);
  ExpectNothingHeld();
}

TEST_P(EngineDrainTest, DrainCancelsWhatIsLeftAtItsDeadline) {
  Open(/*running=*/2, /*waiting=*/4);
  RequestId held = 0;
  const auto holder = Hold(&held), quick = Submit(Asking(3)), running = Submit(Asking(0)),
             waiting = Submit(Asking(5, 2));
  const absl::Time deadline = SteadyNow() + absl::Milliseconds(100);
  engine_->Drain(deadline);
  EXPECT_GE(SteadyNow(), deadline);
  for (const auto& reader : {holder, quick, running}) EXPECT_EQ(reader->sample().ends, 1);
  EXPECT_EQ(quick->finish(), FinishReason::kLength);
  EXPECT_EQ(holder->finish(), FinishReason::kCancelled);
  EXPECT_EQ(running->finish(), FinishReason::kCancelled);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(waiting->sample(i).ends, 1);
    EXPECT_EQ(waiting->finish(i), FinishReason::kCancelled);
  }
  ExpectNothingHeld();
}

TEST_P(EngineDrainTest, DrainAtOnceCancelsEverything) {
  Open();
  RequestId held = 0;
  const auto holder = Hold(&held), running = Submit(Asking(0));
  engine_->Drain(absl::InfinitePast());
  EXPECT_EQ(holder->finish(), FinishReason::kCancelled);
  EXPECT_EQ(running->finish(), FinishReason::kCancelled);
}

TEST_P(EngineDrainTest, NothingIsTakenWhileDrainingNorAfterwards) {
  Open();
  RequestId held = 0;
  const auto holder = Hold(&held);
  std::thread drain([&] { engine_->Drain(absl::InfiniteFuture()); });
  absl::Status status;
  EXPECT_TRUE(Becomes([&] {
    const auto reader = std::make_shared<Reader>();
    status = engine_->Submit(Asking(1), reader).status();
    return !status.ok();
  }));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(holder->sample().ends, 0);  // it goes on
  engine_->Resume(held);
  drain.join();
  EXPECT_EQ(holder->finish(), FinishReason::kLength);
  EXPECT_EQ(Refused(Asking(1)).code(), absl::StatusCode::kUnavailable);
  engine_->Drain(absl::InfiniteFuture());  // there is nothing left: returns
}

TEST_P(EngineDrainTest, DrainWaitsUntilReadersHaveBeenTold) {
  Open();
  std::mutex mutex;
  std::condition_variable changed;
  bool lets_go = false;
  std::atomic<bool> drained{false};
  const auto reader = std::make_shared<Reader>();
  reader->OnEach([&](const TokenEvent&) {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return lets_go; });
  });
  Submit(Asking(3), nullptr, reader);
  std::thread drain([&] {
    engine_->Drain(absl::InfiniteFuture());
    drained = true;
  });
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(drained);
  {
    std::lock_guard<std::mutex> lock(mutex);
    lets_go = true;
  }
  changed.notify_all();
  drain.join();
  EXPECT_EQ(reader->finish(), FinishReason::kLength);
}

TEST_P(EngineDrainTest, TheDestructorEndsWhatRunsWaitsOrStandsStill) {
  Open(/*running=*/2, /*waiting=*/30);
  RequestId held = 0;
  std::vector<std::shared_ptr<Reader>> readers = {Hold(&held)};
  for (int i = 0; i < 20; ++i) readers.push_back(Submit(Asking(0)));
  engine_.reset();
  for (const auto& reader : readers) {
    EXPECT_EQ(reader->sample().ends, 1);
    EXPECT_EQ(reader->finish(), FinishReason::kCancelled);
  }
}

TEST_P(EngineDrainTest, DrainFromASinkDiesWithWords) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        Open();
        const auto reader = std::make_shared<Reader>();
        reader->OnEach([&](const TokenEvent&) { engine_->Drain(absl::InfinitePast()); });
        Submit(Asking(3), nullptr, reader);
        reader->Wait();
      },
      "Drain was called by a sink");
}

}  // namespace
}  // namespace mambad
