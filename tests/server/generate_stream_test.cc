// What goes wrong around a stream: slow and vanished readers, deadlines, full queues, drain.

#include "server/generate_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <future>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "server/call_environment.h"
#include "server/stall_timer.h"
#include "tests/server/test_daemon.h"

namespace mambad::server {
namespace {

using ::testing::HasSubstr;

// Invariant 5: every way out of a request returns its slot.
TEST(GenerateStreamTest, CancelledHalfWayFreesTheSlot) {
  TestDaemon daemon(TestDaemon::Options(), {.step = absl::Milliseconds(1), .context = 1 << 20});
  grpc::ClientContext context;
  auto reader = daemon.stub().Generate(&context, TextRequest("hello", 1 << 19));
  v1::GenerateResponse message;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(daemon.engine().Stats().running, 1);
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(daemon.BecomesIdle());
}

TEST(GenerateStreamTest, DeadlineEndsTheCall) {
  TestDaemon daemon(TestDaemon::Options(), {.step = absl::Milliseconds(1), .context = 1 << 20});
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(200)));
  auto reader = daemon.stub().Generate(&context, TextRequest("hello", 1 << 19));
  for (v1::GenerateResponse message; reader->Read(&message);) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(daemon.BecomesIdle());
}

TEST(GenerateStreamTest, UnaryCallsAreCancelledToo) {
  TestDaemon daemon(TestDaemon::Options(), {.step = absl::Milliseconds(1), .context = 1 << 20});
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(100)));
  v1::GenerateResponse response;
  const auto status =
      daemon.stub().GenerateOnce(&context, TextRequest("hello", 1 << 19), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(daemon.BecomesIdle());
}

TEST(GenerateStreamTest, UnaryCallsWhoseCallersGoAwayFreeTheSlot) {
  TestDaemon daemon(TestDaemon::Options(), {.step = absl::Milliseconds(1), .context = 1 << 20});
  grpc::ClientContext context;
  v1::GenerateResponse response;
  grpc::Status status;
  std::thread caller([&] {
    status = daemon.stub().GenerateOnce(&context, TextRequest("hello", 1 << 19), &response);
  });
  while (daemon.engine().Stats().running == 0) absl::SleepFor(absl::Milliseconds(1));
  context.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(daemon.BecomesIdle());
}

// Their place in the queue is another's at once, whatever holds the workers up.
TEST(GenerateStreamTest, TextsWhoseCallersAreGoneLeaveTheirQueue) {
  ServerOptions options = TestDaemon::Options();
  options.text_threads = 1;  // and the one for long texts
  std::promise<void> go_on;
  std::atomic<int> begun = 0;
  const auto wait = [&, going_on = go_on.get_future().share()] {
    ++begun;
    going_on.wait();
  };
  TestDaemon daemon(options, {.on_encode = wait});
  const auto become = [](const std::function<bool()>& condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) absl::SleepFor(absl::Milliseconds(10));
    return condition();
  };
  const auto waiting = [&] {
    grpc::ClientContext context;
    v1::GetLoadResponse load;
    daemon.stub().GetLoad(&context, {}, &load);
    return load.text_waiting();
  };
  grpc::ClientContext contexts[4];
  std::vector<std::thread> callers;
  const auto call = [&](int i) {
    callers.emplace_back([&daemon, context = &contexts[i], streams = i % 2 == 0] {
      v1::GenerateResponse response;
      if (!streams) {
        daemon.stub().GenerateOnce(context, TextRequest("hello", 1), &response);
        return;
      }
      const auto reader = daemon.stub().Generate(context, TextRequest("hello", 1));
      while (reader->Read(&response)) {
      }
      reader->Finish();
    });
  };
  for (int i : {0, 1}) call(i);
  EXPECT_TRUE(become([&] { return begun == 2; }));
  for (int i : {2, 3}) {
    call(i);
    EXPECT_TRUE(become([&] { return waiting() == 1; })) << i;
    contexts[i].TryCancel();
    EXPECT_TRUE(become([&] { return waiting() == 0; })) << i;
  }
  go_on.set_value();
  for (std::thread& caller : callers) caller.join();
}

ServerOptions SlowReaderOptions() {
  ServerOptions options = TestDaemon::Options();
  options.max_pending_bytes = 2000;
  return options;
}

// Steps of 100 tokens fill every window in the way within moments.
FakeOptions FastAnswers() {
  return {.step = absl::Microseconds(200), .tokens_per_step = 100, .context = 1 << 22};
}

// The engine makes no more once the windows on the way and the pending bound are full.
TEST(GenerateStreamTest, SlowReaderPausesItsGenerationAndLosesNothing) {
  TestDaemon daemon(SlowReaderOptions(), FastAnswers());
  auto stub = v1::Generation::NewStub(daemon.Channel(/*stream_window_bytes=*/65536));
  grpc::ClientContext context;
  constexpr int kTokens = 1 << 20;
  auto reader = stub->Generate(&context, TextRequest("hello", kTokens));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  std::string text = message.text();
  int64_t made = -1, before = -2;
  for (int i = 0; i < 200 && made != before; ++i) {
    before = made;
    absl::SleepFor(absl::Milliseconds(100));
    made = daemon.engine().Stats().generation_tokens;
  }
  EXPECT_EQ(made, before);
  EXPECT_LT(made, kTokens / 2);
  EXPECT_EQ(daemon.engine().Stats().running, 1);
  while (reader->Read(&message)) text += message.text();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, FakeText("hello", 0, kTokens));
  EXPECT_EQ(message.completion().usage().completion_tokens(), kTokens);
}

TEST(StallTimerTest, LargeAnswersHaveMoreTime) {
  EXPECT_EQ(ReadingTime(absl::Seconds(30), 0), absl::Seconds(30));
  EXPECT_EQ(ReadingTime(absl::Seconds(30), 640 << 10), absl::Seconds(40));
}

// Each part that is taken gives the next one its own time.
TEST(GenerateStreamTest, AReaderWhoTakesTheAnswerInPartsIsNotCancelled) {
  ServerOptions options = TestDaemon::Options();
  options.max_pending_bytes = 1 << 30;
  options.stall_timeout = absl::Seconds(4);
  TestDaemon daemon(options, FastAnswers());
  auto stub = v1::Generation::NewStub(daemon.Channel(/*stream_window_bytes=*/65536));
  grpc::ClientContext context;
  constexpr int kTokens = 1 << 19;
  v1::GenerateRequest request = TextRequest("hello", kTokens);
  request.mutable_output()->set_stream_interval(20000);  // the second such does not fit the window
  auto reader = stub->Generate(&context, request);
  v1::GenerateResponse message;
  std::string text;
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(reader->Read(&message));
    text += message.text();
  }
  ASSERT_TRUE(daemon.BecomesIdle());
  absl::SleepFor(absl::Seconds(2));
  ASSERT_TRUE(reader->Read(&message));
  text += message.text();
  absl::SleepFor(absl::Seconds(5));  // of 4 and 16 more for a megabyte
  while (reader->Read(&message)) text += message.text();
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(text, FakeText("hello", 0, kTokens));
}

TEST(GenerateStreamTest, StalledReaderIsCancelled) {
  ServerOptions options = SlowReaderOptions();
  options.stall_timeout = absl::Milliseconds(300);
  TestDaemon daemon(options, FastAnswers());
  auto stub = v1::Generation::NewStub(daemon.Channel(/*stream_window_bytes=*/65536));
  grpc::ClientContext context;
  auto reader = stub->Generate(&context, TextRequest("hello", 1 << 21));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_TRUE(daemon.BecomesIdle());  // while nothing is read
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  daemon.daemon().Drain();
  EXPECT_THAT(daemon.log(), HasSubstr("code=CANCELLED finish_reason=CANCELLED"));
}

// Nothing pauses here: the whole answer is made, and lies there for a reader who takes none of it.
TEST(GenerateStreamTest, AMadeAnswerThatNobodyReadsIsGivenUp) {
  ServerOptions options = TestDaemon::Options();
  options.max_pending_bytes = 1 << 30;
  options.stall_timeout = absl::Milliseconds(300);
  TestDaemon daemon(options, FastAnswers());
  auto stub = v1::Generation::NewStub(daemon.Channel(/*stream_window_bytes=*/65536));
  for (const int samples : {1, 3}) {
    grpc::ClientContext context;
    v1::GenerateRequest request = TextRequest("hello", 100000);
    request.mutable_output()->set_n(samples);
    auto reader = stub->Generate(&context, request);
    v1::GenerateResponse message;
    ASSERT_TRUE(reader->Read(&message));
    ASSERT_TRUE(daemon.BecomesIdle());
    // A second for each 64 KiB in flight besides.
    absl::SleepFor(absl::Milliseconds(500) + absl::Seconds(samples * 8));
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED) << samples;
  }
}

// GenerateOnce as a stream, of which nothing is read: a unary client would take it in by itself.
std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> AskWithoutReading(
    grpc::Channel* channel, grpc::ClientContext* context) {
  static const grpc::internal::RpcMethod method("/mambad.v1.Generation/GenerateOnce", nullptr,
                                                grpc::internal::RpcMethod::SERVER_STREAMING);
  return std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>(
      grpc::internal::ClientReaderFactory<v1::GenerateResponse>::Create(
          channel, method, context, TextRequest("hello", 60000)));
}

TEST(UnreadAnswersTest, AreBoundedForEachOwnerAndForAll) {
  UnreadAnswers answers(100);
  answers.Add("a", 50);
  EXPECT_TRUE(answers.Check("a").ok());
  answers.Add("a", 20);
  EXPECT_EQ(answers.Check("a").message(),
            "70 bytes of answers wait for this connection to read them, at most half of 100");
  EXPECT_TRUE(answers.Check("b").ok());
  answers.Add("b", 30);
  EXPECT_TRUE(answers.Check("c").ok());
  answers.Add("b", 1);
  const absl::Status full = answers.Check("c");
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(full.message(), "101 bytes of answers wait for their readers, at most 100");
  answers.Remove("a", 20);
  for (const char* owner : {"a", "b", "c"}) EXPECT_TRUE(answers.Check(owner).ok()) << owner;
}

// They would have memory for as long as the stall timeout lasts, as often as they ask.
TEST(UnreadAnswersTest, WhoDoesNotReadIsAnsweredNoMore) {
  ServerOptions options = TestDaemon::Options();
  options.memory_quota_bytes = 4 << 20;
  TestDaemon daemon(options, FastAnswers());
  const auto channel = daemon.Channel(/*stream_window_bytes=*/65536);
  const auto stub = v1::Generation::NewStub(channel);
  const auto ask = [&](v1::Generation::Stub* other) {
    grpc::ClientContext context;
    v1::GenerateResponse answer;
    return other->GenerateOnce(&context, TextRequest("hello", 1), &answer);
  };
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  grpc::Status refused;
  while (contexts.size() < 100 && (refused = ask(stub.get())).ok()) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(AskWithoutReading(channel.get(), contexts.back().get()));
    ASSERT_TRUE(daemon.BecomesIdle());
  }
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("wait for this connection to read them"));
  EXPECT_TRUE(ask(&daemon.stub()).ok());
  // What was refused were calls of the same connection: it is heard again once it has read.
  v1::GenerateResponse answer;
  for (auto& reader : readers) {
    if (reader->Read(&answer)) {
      EXPECT_TRUE(reader->Finish().ok());
    }
  }
  EXPECT_TRUE(ask(stub.get()).ok());
}

TEST(GenerateStreamTest, AnAnswerInOneMessageThatNobodyReadsIsGivenUp) {
  ServerOptions options = TestDaemon::Options();
  options.stall_timeout = absl::Milliseconds(300);
  TestDaemon daemon(options, FastAnswers());
  const auto channel = daemon.Channel(/*stream_window_bytes=*/65536);
  grpc::ClientContext context;
  const auto reader = AskWithoutReading(channel.get(), &context);
  absl::SleepFor(absl::Seconds(10));
  v1::GenerateResponse response;
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

// In 1.5 s.
void ExpectToldToComeBack(const grpc::Status& status, const grpc::ClientContext& context) {
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  google::rpc::Status details;
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 1);
  EXPECT_EQ(retry.retry_delay().nanos(), 500000000);
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto pushback = trailers.find("grpc-retry-pushback-ms");
  ASSERT_NE(pushback, trailers.end());
  EXPECT_EQ(std::string(pushback->second.data(), pushback->second.size()), "1500");
}

TEST(GenerateStreamTest, WhatIsFullLaterSaysWhenToComeBackToo) {
  TestDaemon daemon;
  grpc::ClientContext context;
  v1::GenerateResponse response;
  ExpectToldToComeBack(daemon.stub().GenerateOnce(&context, TextRequest("hello#"), &response),
                       context);
}

// Who is gone before the engine has told the request's number does not leave it running.
TEST(EngineTicketTest, ACancelBeforeTheIdIsToldHoldsToo) {
  EngineTicket ticket;
  const auto engine = OpenFakeEngine(TestDaemon::Options().engine, nullptr,
                                     {.context = 1 << 16, .on_submit = [&] { ticket.Cancel(); }});
  ASSERT_TRUE(engine.ok());
  class Sink : public AnswerReader {
   public:
    void OnTakenOver() override {}
    bool OnEvent(const TokenEvent& event) override {
      if (event.finish != FinishReason::kNone) finish.set_value(event.finish);
      return true;
    }
    std::promise<FinishReason> finish;
  };
  const auto sink = std::make_shared<Sink>();
  Request request;
  request.prompt = {'x'};
  request.deadline = SteadyNow() + absl::Minutes(1);
  ASSERT_TRUE(ticket.Submit(engine->get(), std::move(request), sink).ok());
  EXPECT_EQ(sink->finish.get_future().get(), FinishReason::kCancelled);
}

TEST(GenerateStreamTest, FullQueueSaysWhenToComeBack) {
  ServerOptions options = TestDaemon::Options();
  options.engine.max_sequences = 1;
  options.engine.max_waiting = 0;
  TestDaemon daemon(options, {.step = absl::Milliseconds(1), .context = 1 << 20});
  grpc::ClientContext holder;
  auto reader = daemon.stub().Generate(&holder, TextRequest("hello", 1 << 19));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));

  grpc::ClientContext context;
  v1::GenerateResponse response;
  const auto status = daemon.stub().GenerateOnce(&context, TextRequest("hello", 5), &response);
  ExpectToldToComeBack(status, context);
  holder.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(daemon.BecomesIdle());
}

TEST(GenerateStreamTest, ManyCancelledStreamsLeaveNothing) {
  TestDaemon daemon(TestDaemon::Options(), {.step = absl::Microseconds(100), .context = 1 << 20});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&daemon, t] {
      for (int i = 0; i < 50; ++i) {
        grpc::ClientContext context;
        auto reader = daemon.stub().Generate(&context, TextRequest("hello", 1 << 19));
        v1::GenerateResponse message;
        // Some at once, some after a few messages.
        for (int read = (t + i) % 4; read > 0 && reader->Read(&message); --read) {
        }
        context.TryCancel();
        while (reader->Read(&message)) {
        }
        reader->Finish();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(daemon.BecomesIdle());
  EXPECT_EQ(daemon.engine().Stats().pages_used, 0);
}

}  // namespace
}  // namespace mambad::server
