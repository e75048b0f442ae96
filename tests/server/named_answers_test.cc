// Calls that are repeated under one request_id: nothing is generated twice.

#include "server/named_answers.h"

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/steady_time.h"
#include "tests/server/test_daemon.h"

namespace mambad::server {
namespace {

using ::testing::HasSubstr;

v1::GenerateRequest Named(const std::string& name, const std::string& prompt, int max_tokens) {
  v1::GenerateRequest request = TextRequest(prompt, max_tokens);
  request.set_request_id(name);
  return request;
}

grpc::Status Once(TestDaemon& daemon, const v1::GenerateRequest& request,
                  v1::GenerateResponse* response) {
  grpc::ClientContext context;
  return daemon.stub().GenerateOnce(&context, request, response);
}

int64_t Generated(const TestDaemon& daemon) { return daemon.engine().Stats().generation_tokens; }

TEST(NamedAnswersTest, WhoAsksAgainIsToldTheSameAnswer) {
  TestDaemon daemon;
  const v1::GenerateRequest request = Named("one", "hello", 50);
  const Streamed first = daemon.Generate(request);
  ASSERT_TRUE(first.status.ok());
  ASSERT_TRUE(daemon.BecomesIdle());
  const int64_t generated = Generated(daemon);

  const Streamed again = daemon.Generate(request);
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  EXPECT_EQ(again.text(), FakeText("hello", 0, 50));
  EXPECT_EQ(again.completion()->SerializeAsString(), first.completion()->SerializeAsString());
  v1::GenerateResponse once;
  ASSERT_TRUE(Once(daemon, request, &once).ok());
  EXPECT_EQ(once.text(), first.text());
  EXPECT_EQ(once.completion().seed(), first.completion()->seed());  // drawn once
  EXPECT_EQ(once.completion().receipt().answer_digest(),
            first.completion()->receipt().answer_digest());
  EXPECT_EQ(Generated(daemon), generated);

  ASSERT_TRUE(daemon.Generate(Named("other", "hello", 50)).status.ok());
  ASSERT_TRUE(daemon.BecomesIdle());
  EXPECT_EQ(Generated(daemon), 2 * generated);
}

TEST(NamedAnswersTest, AllSamplesWithAllThatWasAskedForAreTold) {
  TestDaemon daemon;
  v1::GenerateRequest request = Named("many", "hello", 20);
  request.mutable_output()->set_n(3);
  request.mutable_output()->set_logprobs(2);
  request.mutable_output()->set_prompt_logprobs(1);
  v1::GenerateResponse first, again;
  ASSERT_TRUE(Once(daemon, request, &first).ok());
  ASSERT_TRUE(Once(daemon, request, &again).ok());
  EXPECT_EQ(again.SerializeAsString(), first.SerializeAsString());
  EXPECT_EQ(again.further_samples_size(), 2);
  EXPECT_EQ(again.logprobs_size(), 20);
}

TEST(NamedAnswersTest, AnAnswerWhoseCallerIsGoneIsThereForTheNext) {
  TestDaemon daemon(TestDaemon::Options(), {.step = absl::Milliseconds(2)});
  const v1::GenerateRequest request = Named("cut", "hello", 300);
  {
    grpc::ClientContext context;
    auto reader = daemon.stub().Generate(&context, request);
    v1::GenerateResponse message;
    ASSERT_TRUE(reader->Read(&message));
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  const Streamed again = daemon.Generate(request);
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  EXPECT_EQ(again.text(), FakeText("hello", 0, 300));
  ASSERT_TRUE(daemon.BecomesIdle());
  EXPECT_EQ(Generated(daemon), 300);
}

TEST(NamedAnswersTest, TheLaterCallIsToldWhatIsBeingMade) {
  TestDaemon daemon(TestDaemon::Options(), {.step = absl::Milliseconds(2)});
  const v1::GenerateRequest request = Named("twice", "hello", 300);
  grpc::ClientContext context;
  auto first = daemon.stub().Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(first->Read(&message));
  v1::GenerateResponse once;
  ASSERT_TRUE(Once(daemon, request, &once).ok());
  EXPECT_EQ(once.text(), FakeText("hello", 0, 300));
  while (first->Read(&message)) {
  }
  const grpc::Status status = first->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_THAT(status.error_message(), HasSubstr("a later call of the same name"));
  ASSERT_TRUE(daemon.BecomesIdle());
  EXPECT_EQ(Generated(daemon), 300);
}

TEST(NamedAnswersTest, ACallThatIsAnsweredOnceCanBeTakenOverToo) {
  TestDaemon daemon(TestDaemon::Options(), {.step = absl::Milliseconds(2)});
  const v1::GenerateRequest request = Named("twice", "hello", 300);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  v1::GenerateResponse once;
  grpc::Status status;
  auto first = daemon.stub().AsyncGenerateOnce(&context, request, &queue);
  first->Finish(&once, &status, nullptr);
  while (Generated(daemon) == 0) absl::SleepFor(absl::Milliseconds(1));
  const Streamed streamed = daemon.Generate(request);
  EXPECT_EQ(streamed.text(), FakeText("hello", 0, 300));
  void* tag;
  bool ok;
  ASSERT_TRUE(queue.Next(&tag, &ok));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
}

// Calls may be taken up in another order than they came in: one that was left is no reason to end
// the one that came behind it.
TEST(NamedAnswersTest, WhoIsGoneTakesNothingOver) {
  ServerOptions options = TestDaemon::Options();
  options.metrics_listen = "127.0.0.1:0";
  options.retries.take_over_pause = absl::Hours(1);
  TestDaemon daemon(options, {.step = absl::Milliseconds(2)});
  const v1::GenerateRequest request = Named("twice", "hello", 300);
  grpc::ClientContext context;
  auto told = daemon.stub().Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(told->Read(&message));
  std::string text = message.text();
  {
    grpc::ClientContext left;
    auto reader = daemon.stub().Generate(&left, request);
    while (!absl::StrContains(daemon.Metrics(), "mambad_repeated_calls_total 1")) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    left.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  while (told->Read(&message)) text += message.text();
  const grpc::Status status = told->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(text, FakeText("hello", 0, 300));
  EXPECT_TRUE(daemon.BecomesIdle());
}

TEST(NamedAnswersTest, NobodyComesBackForEver) {
  ServerOptions options = TestDaemon::Options();
  options.retries.reattach_timeout = absl::Milliseconds(200);
  TestDaemon daemon(options, {.step = absl::Milliseconds(1), .context = 1 << 20});
  const v1::GenerateRequest request = Named("left", "hello", 1 << 19);
  grpc::ClientContext context;
  auto reader = daemon.stub().Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  const absl::Time left = SteadyNow();
  context.TryCancel();
  reader->Finish();
  ASSERT_TRUE(daemon.BecomesIdle());
  EXPECT_GE(SteadyNow() - left, absl::Milliseconds(150));
  EXPECT_THAT(daemon.log(), HasSubstr("code=CANCELLED"));
  // Forgotten: the same name begins anew.
  ASSERT_TRUE(daemon.Generate(Named("left", "other", 5)).status.ok());
}

TEST(NamedAnswersTest, ANameIsThatOfOneRequest) {
  TestDaemon daemon;
  ASSERT_TRUE(daemon.Generate(Named("one", "hello", 5)).status.ok());
  const Streamed other = daemon.Generate(Named("one", "hello", 6));
  EXPECT_EQ(other.status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_THAT(other.status.error_message(), HasSubstr("request_id: the name of another request"));
  v1::GenerateResponse once;
  EXPECT_EQ(Once(daemon, Named("one", "hello!", 5), &once).error_code(),
            grpc::StatusCode::ALREADY_EXISTS);
}

TEST(NamedAnswersTest, WhatFailedMayBeTriedAnew) {
  TestDaemon daemon;
  for (int attempt = 1; attempt <= 2; ++attempt) {
    EXPECT_EQ(daemon.Generate(Named("bad", "hello!", 10)).status.error_code(),
              grpc::StatusCode::INTERNAL);
    ASSERT_TRUE(daemon.BecomesIdle());
    EXPECT_EQ(Generated(daemon), 4 * attempt);  // the step that fails counts
  }
  // One that the engine never took.
  v1::GenerateRequest refused = Named("refused", "hello", 10);
  refused.mutable_sampling()->set_top_k(13);
  for (int attempt = 0; attempt < 2; ++attempt) {
    const Streamed streamed = daemon.Generate(refused);
    EXPECT_EQ(streamed.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(Violation(streamed.status), HasSubstr("sampling.top_k"));
  }
}

TEST(NamedAnswersTest, AnswersAreForgottenInTime) {
  ServerOptions options = TestDaemon::Options();
  options.retries.keep_time = absl::Milliseconds(50);
  TestDaemon daemon(options);
  const v1::GenerateRequest request = Named("old", "hello", 20);
  ASSERT_TRUE(daemon.Generate(request).status.ok());
  absl::SleepFor(absl::Milliseconds(100));
  ASSERT_TRUE(daemon.Generate(request).status.ok());
  ASSERT_TRUE(daemon.BecomesIdle());
  EXPECT_EQ(Generated(daemon), 40);
}

TEST(NamedAnswersTest, WithoutMemoryCallsAreNeverRepeats) {
  ServerOptions options = TestDaemon::Options();
  options.retries.memory_bytes = 0;
  TestDaemon daemon(options);
  ASSERT_TRUE(daemon.Generate(Named("one", "hello", 20)).status.ok());
  ASSERT_TRUE(daemon.Generate(Named("one", "other", 20)).status.ok());
  ASSERT_TRUE(daemon.BecomesIdle());
  EXPECT_EQ(Generated(daemon), 40);
}

TEST(NamedAnswersTest, MemoryIsBounded) {
  ServerOptions options = TestDaemon::Options();
  options.retries.memory_bytes = 64 << 10;
  options.metrics_listen = "127.0.0.1:0";
  TestDaemon daemon(options, {.tokens_per_step = 50, .context = 1 << 20});
  // The oldest go.
  for (int i = 0; i < 60; ++i)
    ASSERT_TRUE(daemon.Generate(Named(absl::StrCat("n", i), "hello", 400)).status.ok());
  ASSERT_TRUE(daemon.BecomesIdle());
  const int64_t generated = Generated(daemon);
  ASSERT_TRUE(daemon.Generate(Named("n59", "hello", 400)).status.ok());
  EXPECT_EQ(Generated(daemon), generated);
  ASSERT_TRUE(daemon.Generate(Named("n0", "hello", 400)).status.ok());
  ASSERT_TRUE(daemon.BecomesIdle());
  EXPECT_EQ(Generated(daemon), generated + 400);
  EXPECT_THAT(daemon.Metrics(), HasSubstr("mambad_repeated_calls_total 1"));

  // One that is larger than all of it is told once, and not again while it is made.
  const v1::GenerateRequest large = Named("large", "hello", 1 << 19);
  grpc::ClientContext context;
  auto reader = daemon.stub().Generate(&context, large);
  v1::GenerateResponse message;
  std::string text;
  while (text.size() < (256u << 10) && reader->Read(&message)) text += message.text();
  v1::GenerateResponse once;
  EXPECT_EQ(Once(daemon, large, &once).error_code(), grpc::StatusCode::ABORTED);
  context.TryCancel();
  reader->Finish();
  ASSERT_TRUE(daemon.BecomesIdle());
  EXPECT_THAT(daemon.Metrics(), HasSubstr("mambad_named_answers "));
  ASSERT_TRUE(daemon.Generate(Named("large", "hello", 5)).status.ok());  // forgotten
}

// Half a megabyte is more than is on its way to a reader that takes it in small pieces: the engine
// pauses for it, also while it is told what was made before it came.
TEST(NamedAnswersTest, SlowReadersAreWaitedForWhenTheyAreToldAgain) {
  ServerOptions options = TestDaemon::Options();
  options.max_pending_bytes = 4096;
  TestDaemon daemon(options, {.tokens_per_step = 100, .context = 1 << 20});
  constexpr int kTokens = 1 << 18;
  const v1::GenerateRequest request = Named("slow", "hello", kTokens);
  {
    grpc::ClientContext context;
    auto reader = daemon.stub().Generate(&context, request);
    v1::GenerateResponse message;
    for (size_t bytes = 0; bytes < (100u << 10) && reader->Read(&message);)
      bytes += message.text().size();
    context.TryCancel();
    reader->Finish();
  }
  const auto stub = v1::Generation::NewStub(daemon.Channel(/*stream_window_bytes=*/65536));
  for (int attempt = 0; attempt < 2; ++attempt) {
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, request);
    v1::GenerateResponse message;
    std::string text;
    while (reader->Read(&message)) text += message.text();
    const grpc::Status status = reader->Finish();
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(text, FakeText("hello", 0, kTokens));
  }
  ASSERT_TRUE(daemon.BecomesIdle());
  EXPECT_EQ(Generated(daemon), kTokens);
}

TEST(NamedAnswersTest, NamesAreThoseOfTheirCaller) {
  NamedAnswers answers{RetryOptions()};
  v1::GenerateRequest request = Named("one", "hello", 5);
  request.mutable_sampling()->mutable_logit_bias()->insert({{1, 2.f}, {5, 1.f}, {3, 7.f}});
  bool begun = false;
  const auto mine = answers.FindOrBegin(NameOf(request, "me"), {}, &begun);
  ASSERT_TRUE(mine.ok() && begun);
  EXPECT_EQ(answers.Find(NameOf(request, "me")).value(), *mine);
  EXPECT_EQ(answers.Find(NameOf(request, "you")).value(), nullptr);
  v1::GenerateRequest same;
  ASSERT_TRUE(same.ParseFromString(request.SerializeAsString()));
  EXPECT_EQ(NameOf(same, "me").digest, NameOf(request, "me").digest);
  same.mutable_sampling()->set_seed(3);
  EXPECT_FALSE(answers.Find(NameOf(same, "me")).ok());
  EXPECT_TRUE(NameOf(TextRequest("hello"), "me").empty());
  (*mine)->Failed(absl::InternalError("x"));
  EXPECT_EQ(answers.Find(NameOf(request, "me")).value(), nullptr);
}

}  // namespace
}  // namespace mambad::server
