// Whose turn text work is, what may wait, and what becomes of it when nobody waits any more.

#include "server/text_worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/steady_time.h"
#include "google/rpc/error_details.pb.h"

namespace mambad::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TextJobPointer Job(const std::string& owner, int64_t bytes) {
  auto job = std::make_shared<TextJob>();
  job->owner = owner;
  job->bytes = bytes;
  return job;
}

std::vector<std::string> OwnersInTurn(TextQueue* queue) {
  std::vector<std::string> owners;
  while (const TextJobPointer job = queue->TakeNext())
    owners.push_back(absl::StrCat(job->owner, job->bytes));
  return owners;
}

TEST(TextQueueTest, WhoHadLeastIsNext) {
  TextQueue queue({100, 1 << 30});
  for (const int bytes : {5000, 5001, 5002}) ASSERT_TRUE(queue.Add(Job("large", bytes)).ok());
  for (const int bytes : {10, 11}) ASSERT_TRUE(queue.Add(Job("small", bytes)).ok());
  EXPECT_EQ(queue.calls(), 5);
  EXPECT_EQ(queue.bytes(), 15024);
  EXPECT_THAT(OwnersInTurn(&queue),
              ElementsAre("large5000", "small10", "small11", "large5001", "large5002"));
  EXPECT_EQ(queue.calls(), 0);
  EXPECT_EQ(queue.bytes(), 0);
}

TEST(TextQueueTest, WhoComesAnewHasNoClaimOnThePast) {
  TextQueue queue({100, 1 << 30});
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(queue.Add(Job("first", 1000)).ok());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(queue.TakeNext()->owner, "first");
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(queue.Add(Job("second", 1000)).ok());
  EXPECT_THAT(OwnersInTurn(&queue), ElementsAre("second1000", "first1000", "second1000",
                                                "first1000", "second1000", "first1000"));
}

TEST(TextQueueTest, IsBoundedByCallsAndBytesAndForEachOwner) {
  TextQueue calls({4, 1 << 30});
  EXPECT_TRUE(calls.Add(Job("a", 1)).ok());
  EXPECT_TRUE(calls.Add(Job("a", 1)).ok());
  EXPECT_THAT(calls.Add(Job("a", 1)).message(), HasSubstr("2 calls of this connection"));
  EXPECT_TRUE(calls.Add(Job("b", 1)).ok());
  EXPECT_TRUE(calls.Add(Job("c", 1)).ok());
  const absl::Status full = calls.Add(Job("d", 1));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(full.message(), HasSubstr("4 calls wait, at most 4"));

  TextQueue large({100, 1000});
  EXPECT_TRUE(large.Add(Job("a", 2000)).ok());  // more than may wait, but nothing does

  TextQueue bytes({100, 1000});
  EXPECT_TRUE(bytes.Add(Job("a", 900)).ok());  // more than its half, but nothing else waits
  EXPECT_THAT(bytes.Add(Job("b", 101)).message(), HasSubstr("900 bytes wait, at most 1000"));
  EXPECT_TRUE(bytes.Add(Job("b", 100)).ok());
  EXPECT_EQ(bytes.TakeNext()->owner, "a");
  EXPECT_THAT(bytes.Add(Job("b", 401)).message(), HasSubstr("100 bytes of this connection"));
}

TEST(TextQueueTest, WhatIsTakenOutIsForgotten) {
  TextQueue queue({100, 1000});
  const TextJobPointer gone = Job("a", 400);
  ASSERT_TRUE(queue.Add(gone).ok());
  ASSERT_TRUE(queue.Add(Job("a", 50)).ok());
  EXPECT_TRUE(queue.Remove(*gone));
  EXPECT_FALSE(queue.Remove(*gone));
  EXPECT_EQ(queue.bytes(), 50);
  EXPECT_TRUE(queue.Add(Job("a", 400)).ok());  // its owner has that room again
  EXPECT_THAT(OwnersInTurn(&queue), ElementsAre("a50", "a400"));
}

// A worker whose long texts all wait for one that is held.
class TextWorkerTest : public ::testing::Test {
 protected:
  static TextWorkerOptions Options() {
    TextWorkerOptions options;
    options.short_texts = {100, 1 << 20};
    options.long_texts = {100, int64_t{1} << 30};
    return options;
  }

  // Runs until Release, telling that it has begun.
  TextJobPointer Held() {
    TextJobPointer job = Job("held", 1 << 20);
    job->run = [this, job = job.get()](const absl::Status&) {
      begun_.set_value();
      released_.get_future().wait();
      was_told_ = job->over.load();
    };
    EXPECT_TRUE(worker_.Submit(job).ok());
    begun_.get_future().wait();
    return job;
  }
  void Release() { released_.set_value(); }

  TextJobPointer Send(const std::string& owner, int64_t bytes, std::promise<absl::Status>* end) {
    TextJobPointer job = Job(owner, bytes);
    job->run = [end](const absl::Status& status) { end->set_value(status); };
    EXPECT_TRUE(worker_.Submit(job).ok());
    return job;
  }

  std::promise<void> begun_, released_;
  bool was_told_ = false;
  int waits_ = 0;
  TextWorker worker_{Options(),
                     [](absl::Duration waited) { EXPECT_GE(waited, absl::ZeroDuration()); }};
};

TEST_F(TextWorkerTest, ShortTextsDoNotWaitForLongOnes) {
  Held();
  std::promise<absl::Status> long_end, short_end;
  Send("a", 1 << 20, &long_end);
  Send("a", 100, &short_end);
  EXPECT_TRUE(short_end.get_future().get().ok());  // while the long one is held
  EXPECT_EQ(worker_.Load().waiting, 1);
  EXPECT_EQ(worker_.Load().waiting_bytes, 1 << 20);
  Release();
  EXPECT_TRUE(long_end.get_future().get().ok());
}

TEST_F(TextWorkerTest, WhatIsCancelledEndsWithoutWaitingItsTurn) {
  const TextJobPointer held = Held();
  std::promise<absl::Status> end;
  const TextJobPointer job = Send("a", 1 << 20, &end);
  worker_.Cancel(job);
  EXPECT_EQ(end.get_future().get().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(worker_.Load().waiting, 0);
  worker_.Cancel(held);  // at work: it is told
  Release();
  worker_.Drain(absl::InfiniteFuture());
  EXPECT_TRUE(was_told_);
}

TEST_F(TextWorkerTest, WhatWasGivenUpBeforeItWasHandedOverIsNotWorkedOn) {
  Held();  // and those that take short texts are free
  const TextJobPointer early = Job("a", 1);
  std::promise<absl::Status> end;
  early->run = [&](const absl::Status& status) { end.set_value(status); };
  worker_.Cancel(early);
  EXPECT_TRUE(worker_.Submit(early).ok());
  EXPECT_EQ(end.get_future().get().code(), absl::StatusCode::kCancelled);
  Release();
}

TEST_F(TextWorkerTest, NothingIsTakenAnyMoreOnceItDrains) {
  worker_.Drain(absl::InfiniteFuture());
  EXPECT_EQ(worker_.Submit(Job("a", 1)).code(), absl::StatusCode::kUnavailable);
}

// Seconds that a refusal names.
int64_t RetryDelayOf(const absl::Status& refused) {
  google::rpc::RetryInfo retry;
  refused.ForEachPayload([&](absl::string_view, const absl::Cord& payload) {
    EXPECT_TRUE(retry.ParseFromString(std::string(payload)));
  });
  return retry.retry_delay().seconds();
}

TEST_F(TextWorkerTest, WhoIsRefusedTogetherIsNotToldToComeBackTogether) {
  Held();
  constexpr int64_t kBytes = 100'000'000;  // 100 s, before anything was measured
  for (int i = 0; i < 6; ++i) {
    const TextJobPointer waits = Job(absl::StrCat(i), kBytes);
    waits->run = [](const absl::Status&) {};
    ASSERT_TRUE(worker_.Submit(waits).ok());
  }
  std::vector<int64_t> told;
  for (int i = 0; i < 12; ++i) {
    const absl::Status refused = worker_.Submit(Job(absl::StrCat("another ", i), 6 * kBytes));
    ASSERT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    told.push_back(RetryDelayOf(refused));
  }
  EXPECT_NEAR(told[0], 600, 2);
  EXPECT_NEAR(told[1], 1200, 2);
  // No longer than all that waits takes, and the one that asks.
  EXPECT_NEAR(told[11], 1200, 2);
  Release();
}

TEST_F(TextWorkerTest, ARefusedJobLetsGoOfItsCall) {
  Held();
  const auto call = std::make_shared<TextJobPointer>();  // which has its job, which has its call
  const auto make = [&](int64_t bytes) {
    *call = Job("held", bytes);
    (*call)->run = [call](const absl::Status&) {};
    return *call;
  };
  EXPECT_EQ(worker_.Submit(make(int64_t{1} << 30)).code(), absl::StatusCode::kOk);
  EXPECT_EQ(call.use_count(), 2);  // that waits
  const absl::Status full = worker_.Submit(make(int64_t{1} << 29));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  // Before anything was measured, a microsecond for each byte that waits before it.
  EXPECT_EQ(RetryDelayOf(full), (int64_t{1} << 30) / 1000000);
  EXPECT_EQ(call.use_count(), 2);
  Release();
  worker_.Drain(absl::InfiniteFuture());
  EXPECT_EQ(worker_.Submit(make(1)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(call.use_count(), 1);
}

TEST_F(TextWorkerTest, AJobThatWasWorkedOnLetsGoOfItsCall) {
  const auto call = std::make_shared<TextJobPointer>(Job("a", 1));
  (*call)->run = [call](const absl::Status&) {};
  ASSERT_TRUE(worker_.Submit(*call).ok());
  worker_.Drain(absl::InfiniteFuture());
  EXPECT_EQ(call.use_count(), 1);
}

TEST_F(TextWorkerTest, DrainWaitsUntilItsDeadlineAndEndsTheRest) {
  Held();
  std::promise<absl::Status> end;
  Send("a", 1 << 20, &end);
  auto ended = end.get_future();
  std::thread release([&] {
    ended.wait();  // ended by the deadline, while the held one goes on
    Release();
  });
  worker_.Drain(SteadyNow() + absl::Milliseconds(50));
  release.join();
  EXPECT_EQ(ended.get().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(was_told_);
}

}  // namespace
}  // namespace mambad::server
