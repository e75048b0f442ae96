// What engine/engine.h promises of Submit, Cancel, deadlines and events, over the engine and
// over the fake that stands for it in tests of the server.

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine.h"
#include "engine/retry_delay.h"
#include "engine/steady_time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/engine_contract.h"

namespace mambad {
namespace {

using ::testing::AllOf;
using ::testing::Ge;
using ::testing::Le;
using ::testing::StartsWith;

using EngineRequestsTest = EngineContractTest;
INSTANTIATE_TEST_SUITE_P(Engines, EngineRequestsTest, BothEngines(), NameOfEngine);

// ---- answers ------------------------------------------------------------------------------------

TEST_P(EngineRequestsTest, EveryTokenComesOnceAndTheEndOnce) {
  Open();
  RequestId first = 0, second = 0;
  const auto reader = Submit(Asking(30), &first), again = Submit(Asking(30), &second);
  EXPECT_TRUE(reader->Wait() && again->Wait());
  EXPECT_NE(first, second);
  EXPECT_EQ(reader->id(), first);
  EXPECT_EQ(again->id(), second);
  const Reader::Sample answer = reader->sample();
  EXPECT_EQ(answer.finish, FinishReason::kLength);
  EXPECT_EQ(answer.tokens.size(), 30u);
  EXPECT_EQ(answer.tokens, again->sample().tokens);
  EXPECT_EQ(answer.text, again->sample().text);
  EXPECT_EQ(answer.stats.prompt_tokens, 4);
  EXPECT_EQ(answer.stats.completion_tokens, 30);
  ExpectNothingHeld();
}

TEST_P(EngineRequestsTest, WithoutALimitAnAnswerEndsWithTheContext) {
  Open();
  const auto reader = Submit(Asking(0, 1, /*prompt=*/kContext - 7));
  EXPECT_TRUE(reader->Wait());
  EXPECT_EQ(reader->finish(), FinishReason::kLength);
  EXPECT_EQ(reader->sample().tokens.size(), 7u);
}

TEST_P(EngineRequestsTest, EverySampleEndsOnce) {
  Open(/*running=*/4, /*waiting=*/4);
  const auto reader = Submit(Asking(20, 3)), alone = Submit(Asking(20));
  EXPECT_TRUE(reader->Wait() && alone->Wait());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(reader->finish(i), FinishReason::kLength) << i;
    EXPECT_EQ(reader->sample(i).tokens.size(), 20u) << i;
    EXPECT_EQ(reader->sample(i).stats.completion_tokens, 20) << i;
  }
  EXPECT_EQ(reader->sample(0).tokens, alone->sample().tokens);
  ExpectNothingHeld();
}

TEST_P(EngineRequestsTest, TheSinkIsKeptUntilTheEndAndThenLetGo) {
  Open();
  auto reader = Submit(Asking(5));
  const std::weak_ptr<Reader> left = reader;
  EXPECT_TRUE(reader->Wait());
  reader.reset();
  EXPECT_TRUE(Becomes([&] { return left.expired(); }));
}

TEST_P(EngineRequestsTest, ManyCallersSubmitAndCancelAtOnce) {
  Open(/*running=*/4, /*waiting=*/100);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (int i = 0; i < 10; ++i) {
        RequestId id = 0;
        const auto reader = Submit(Asking(1 + i, 1 + i % 3), &id);
        if ((i + caller) % 3 == 0) engine_->Cancel(id);
        EXPECT_TRUE(reader->Wait());
        for (int s = 0; s < 1 + i % 3; ++s) EXPECT_EQ(reader->sample(s).ends, 1);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  ExpectNothingHeld();
}

// ---- refusals -----------------------------------------------------------------------------------

TEST_P(EngineRequestsTest, InvalidRequestsAreRefusedByTheirField) {
  Open(/*running=*/2, /*waiting=*/1);
  const int vocabulary = engine_->model().vocabulary;
  const std::pair<const char*, std::function<void(Request&)>> cases[] = {
      {"prompt", [](Request& r) { r.prompt.clear(); }},
      {"prompt", [](Request& r) { r.prompt.assign(kContext, 1); }},
      {"prompt", [&](Request& r) { r.prompt.back() = vocabulary; }},
      {"prompt", [](Request& r) { r.prompt.front() = -1; }},
      {"sampling.temperature", [](Request& r) { r.sampling.temperature = -1; }},
      {"stopping.max_tokens", [](Request& r) { r.stopping.max_tokens = -1; }},
      {"output.n", [](Request& r) { r.output.samples = 0; }},
      {"output.n", [](Request& r) { r.output.samples = 3; }}};
  for (const auto& [field, spoil] : cases) {
    Request request = Asking(5);
    spoil(request);
    const absl::Status status = Refused(std::move(request));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), StartsWith(field));
  }
  EXPECT_TRUE(Submit(Asking(5, 2))->WaitForEvents(1));  // and no more happened
}

// A queue limit is reached: with words when to come back, and only for so long.
TEST_P(EngineRequestsTest, AFullQueueRefuses) {
  Open(/*running=*/1, /*waiting=*/2);
  RequestId held = 0, waiting = 0;
  const auto holder = Hold(&held);
  const auto first = Submit(Asking(3), &waiting), second = Submit(Asking(3));
  const absl::Status status = Refused(Asking(3));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_TRUE(status.GetPayload(kRetryDelay).has_value());
  EXPECT_THAT(RetryDelayOf(status), AllOf(Ge(absl::Milliseconds(10)), Le(absl::Minutes(10))));
  engine_->Cancel(waiting);
  EXPECT_TRUE(first->Wait());
  EXPECT_TRUE(Becomes([&] { return engine_->Stats().waiting == 1; }));
  const auto third = Submit(Asking(3));
  engine_->Cancel(held);
  for (const auto& reader : {holder, second, third}) EXPECT_TRUE(reader->Wait());
  EXPECT_EQ(second->finish(), FinishReason::kLength);
  EXPECT_EQ(third->finish(), FinishReason::kLength);
  ExpectNothingHeld();
}

// Samples take slots; what is free of these is no place in the queue.
TEST_P(EngineRequestsTest, PlacesInTheQueueAreCountedBySlots) {
  Open(/*running=*/4, /*waiting=*/1);
  RequestId held = 0;
  const auto holder = Hold(&held, 4);
  const auto waiting = Submit(Asking(3));
  EXPECT_EQ(Refused(Asking(3)).code(), absl::StatusCode::kResourceExhausted);
  engine_->Cancel(held);
  EXPECT_TRUE(holder->Wait() && waiting->Wait());
}

TEST_P(EngineRequestsTest, AQueueFullOfTokensRefuses) {
  EngineOptions options;
  options.max_sequences = 1;
  options.max_waiting_tokens = 10;
  Open(options);
  RequestId held = 0;
  const auto holder = Hold(&held);
  const auto waiting = Submit(Asking(3, 1, /*prompt=*/12));  // alone: however long
  EXPECT_EQ(Refused(Asking(3, 1, /*prompt=*/1)).code(), absl::StatusCode::kResourceExhausted);
  engine_->Cancel(held);
  EXPECT_TRUE(holder->Wait() && waiting->Wait());
  EXPECT_EQ(waiting->finish(), FinishReason::kLength);
}

TEST_P(EngineRequestsTest, NumbersSayWhatRunsAndWaits) {
  Open(/*running=*/2, /*waiting=*/8);
  EXPECT_EQ(engine_->EstimatedWait(), absl::ZeroDuration());
  RequestId held = 0;
  const auto holder = Hold(&held, 2);
  EXPECT_EQ(engine_->Stats().running, 1);  // requests
  EXPECT_EQ(engine_->Stats().slots_used, 2);
  EXPECT_EQ(engine_->Stats().slots_total, 2);
  std::vector<std::shared_ptr<Reader>> waiting;
  for (int i = 1; i <= 3; ++i) {
    waiting.push_back(Submit(Asking(3)));
    EXPECT_EQ(engine_->Stats().waiting, i);
    EXPECT_THAT(engine_->EstimatedWait(), AllOf(Ge(absl::Nanoseconds(1)), Le(absl::Minutes(10))));
  }
  engine_->Cancel(held);
  for (const auto& reader : waiting) EXPECT_TRUE(reader->Wait());
  ExpectNothingHeld();
  EXPECT_EQ(engine_->EstimatedWait(), absl::ZeroDuration());
  EXPECT_GE(engine_->Stats().generation_tokens, 9);
  EXPECT_GE(engine_->Stats().prompt_tokens, 4 * 4);
}

// ---- cancel and deadline ------------------------------------------------------------------------

TEST_P(EngineRequestsTest, CancelEndsOneThatWaits) {
  Open(/*running=*/1, /*waiting=*/4);
  RequestId held = 0, waiting = 0;
  const auto holder = Hold(&held), reader = Submit(Asking(3), &waiting);
  engine_->Cancel(waiting);
  EXPECT_TRUE(reader->Wait());
  EXPECT_EQ(reader->finish(), FinishReason::kCancelled);
  EXPECT_EQ(reader->sample().tokens.size(), 0u);
  EXPECT_EQ(reader->sample().stats.prompt_tokens, 4);
  EXPECT_EQ(holder->sample().ends, 0);
}

TEST_P(EngineRequestsTest, CancelEndsOneThatRunsAllSamplesOfIt) {
  Open(/*running=*/3, /*waiting=*/4);
  RequestId id = 0;
  const auto reader = Submit(Asking(0, 3), &id);
  EXPECT_TRUE(reader->WaitForEvents(4));
  engine_->Cancel(id);
  EXPECT_TRUE(reader->Wait());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(reader->finish(i), FinishReason::kCancelled) << i;
    EXPECT_LT(reader->sample(i).tokens.size(), size_t{kContext - 4}) << i;
    EXPECT_EQ(reader->sample(i).stats.completion_tokens,
              static_cast<int64_t>(reader->sample(i).tokens.size()));
  }
  ExpectNothingHeld();
}

TEST_P(EngineRequestsTest, CancelEndsOneWhoseReaderHasFallenBehind) {
  Open();
  RequestId id = 0;
  const auto reader = Hold(&id);
  engine_->Cancel(id);
  EXPECT_TRUE(reader->Wait());
  EXPECT_EQ(reader->finish(), FinishReason::kCancelled);
  ExpectNothingHeld();
}

TEST_P(EngineRequestsTest, ASinkMayCancel) {
  Open();
  const auto reader = std::make_shared<Reader>();
  reader->OnEach([&](const TokenEvent& event) {
    if (event.finish == FinishReason::kNone) engine_->Cancel(event.request);
  });
  Submit(Asking(0), nullptr, reader);
  EXPECT_TRUE(reader->Wait());
  EXPECT_EQ(reader->finish(), FinishReason::kCancelled);
}

// Twice, after the end, or of a request that never was.
TEST_P(EngineRequestsTest, CancelAndResumeOfNothingAreNothing) {
  Open();
  RequestId id = 0, other = 0;
  const auto reader = Hold(&id);
  for (int i = 0; i < 3; ++i) engine_->Cancel(id);
  EXPECT_TRUE(reader->Wait());
  for (const RequestId unknown : {id, RequestId{0}, RequestId{1} << 60}) {
    engine_->Cancel(unknown);
    engine_->Resume(unknown);
  }
  const auto after = Submit(Asking(10), &other);
  engine_->Cancel(id);
  EXPECT_TRUE(after->Wait());
  EXPECT_EQ(after->finish(), FinishReason::kLength);
  EXPECT_EQ(reader->sample().ends, 1);
}

TEST_P(EngineRequestsTest, ADeadlineEndsWhatRunsWaitsOrStandsStill) {
  Open(/*running=*/2, /*waiting=*/4);
  const absl::Time deadline = SteadyNow() + absl::Milliseconds(250);
  const auto asking = [&](int samples) {
    Request request = Asking(0, samples);
    request.deadline = deadline;
    return request;
  };
  const auto behind = std::make_shared<Reader>();
  behind->FallBehindAt(1);
  Submit(asking(1), nullptr, behind);
  const auto running = Submit(asking(1)), waiting = Submit(asking(2));
  for (const auto& reader : {behind, running, waiting}) {
    EXPECT_TRUE(reader->Wait());
    EXPECT_GE(SteadyNow(), deadline);
    EXPECT_EQ(reader->finish(), FinishReason::kDeadline);
  }
  EXPECT_EQ(waiting->finish(1), FinishReason::kDeadline);
  EXPECT_EQ(waiting->sample().tokens.size() + waiting->sample(1).tokens.size(), 0u);
  EXPECT_GT(behind->sample().tokens.size(), 0u);
  ExpectNothingHeld();
}

TEST_P(EngineRequestsTest, ADeadlineThatHasPassedIsNoRefusal) {
  Open();
  Request request = Asking(10);
  request.deadline = SteadyNow() - absl::Seconds(1);
  const auto reader = Submit(std::move(request));
  EXPECT_TRUE(reader->Wait());
  EXPECT_EQ(reader->finish(), FinishReason::kDeadline);
  EXPECT_EQ(reader->sample().tokens.size(), 0u);
}

}  // namespace
}  // namespace mambad
