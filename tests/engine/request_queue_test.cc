// The order in which those who wait start: without an engine.

#include "engine/request_queue.h"

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class RequestQueueTest : public ::testing::Test {
 protected:
  // Came `seconds` after the first; takes `slots` to start.
  RequestId Add(const std::string& principal, double seconds, int priority = 0, int slots = 1) {
    auto request = std::make_unique<ActiveRequest>();
    request->id = ++last_;
    request->request.principal = principal;
    request->request.priority = priority;
    request->request.prompt.resize(10);
    request->request.output.samples = slots;
    request->submitted = start_ + absl::Seconds(seconds);
    queue_.Add(std::move(request));
    return last_;
  }
  // The one that starts with `slots` free; 0: none. `tokens`: what it is then given.
  RequestId Start(int slots = 100, int64_t tokens = 0) {
    const auto fits = [slots](const ActiveRequest& request) { return request.samples() <= slots; };
    const auto next = queue_.TakeNext(fits, now_);
    if (next == nullptr) return 0;
    queue_.Charge(next->request.principal, tokens);
    return next->id;
  }
  std::vector<RequestId> StartAll(int64_t tokens) {
    std::vector<RequestId> started;
    while (!queue_.empty()) started.push_back(Start(100, tokens));
    return started;
  }

  RequestQueue queue_;
  const absl::Time start_ = absl::UnixEpoch() + absl::Hours(1);
  absl::Time now_ = start_;
  RequestId last_ = 0;
};

TEST_F(RequestQueueTest, OnePrincipalsGoByRank) {
  const RequestId first = Add("", 0), second = Add("", 1), urgent = Add("", 2, /*priority=*/100),
                  idle = Add("", 0, /*priority=*/-100);
  EXPECT_EQ(queue_.size(), 4);
  EXPECT_EQ(queue_.prompt_tokens(), 40);
  // 100 points are worth 5 s.
  EXPECT_THAT(StartAll(1000), ElementsAre(urgent, first, second, idle));
  EXPECT_EQ(queue_.prompt_tokens(), 0);
}

TEST_F(RequestQueueTest, PrincipalsTakeTurnsByTokens) {
  std::vector<RequestId> many, few;
  for (int i = 0; i < 6; ++i) many.push_back(Add("many", 0));
  for (int i = 0; i < 2; ++i) few.push_back(Add("few", 1));
  // A second is worth 20 tokens: behind the first of them already it is the other's turn.
  EXPECT_THAT(StartAll(100),
              ElementsAre(many[0], few[0], many[1], few[1], many[2], many[3], many[4], many[5]));
}

TEST_F(RequestQueueTest, ANewOnesPlaceIsWhereItWouldStart) {
  for (int i = 0; i < 4; ++i) Add("many", i);
  Request request;
  request.principal = "many";
  const absl::Time now = start_ + absl::Seconds(4);
  EXPECT_EQ(queue_.PlaceOf(request, now), 4);
  request.priority = 50;  // 2.5 s
  EXPECT_EQ(queue_.PlaceOf(request, now), 2);
  request.priority = -50;
  EXPECT_EQ(queue_.PlaceOf(request, now), 4);
  // Another's turn comes before that of one who was given 50 tokens more.
  request.priority = 0;
  request.principal = "other";
  EXPECT_EQ(queue_.PlaceOf(request, now), 4);
  queue_.Charge("many", 50);
  EXPECT_EQ(queue_.PlaceOf(request, now), 2);
}

TEST_F(RequestQueueTest, SmallRequestsHaveMoreTurns) {
  std::vector<RequestId> large, small;
  for (int i = 0; i < 2; ++i) large.push_back(Add("large", 0));
  for (int i = 0; i < 8; ++i) small.push_back(Add("small", 0));
  std::vector<RequestId> started;
  while (!queue_.empty()) {
    started.push_back(Start(100, 0));
    const bool is_large = started.back() <= large.back();
    queue_.Charge(is_large ? "large" : "small", is_large ? 400 : 100);
  }
  EXPECT_THAT(started, ElementsAre(large[0], small[0], small[1], small[2], small[3], large[1],
                                   small[4], small[5], small[6], small[7]));
}

TEST_F(RequestQueueTest, WhoWasIdleHasNoCredit) {
  Add("busy", 0);
  for (int i = 0; i < 50; ++i) {
    EXPECT_NE(Start(100, 100), 0u);
    Add("busy", i);
  }
  // 5,000 tokens later another comes: one turn before it stands behind what came before it.
  const RequestId waits = last_, comes = Add("other", 49.5), again = Add("other", 49.6);
  EXPECT_THAT(StartAll(10), ElementsAre(comes, again, waits));
}

TEST_F(RequestQueueTest, WhatWasNotTakenIsGivenBack) {
  const RequestId first = Add("a", 0), second = Add("a", 0), other = Add("b", 0.001);
  EXPECT_EQ(Start(100, 1000), first);
  queue_.Charge("a", -1000);
  EXPECT_EQ(Start(100, 0), second);
  EXPECT_EQ(Start(100, 0), other);
}

TEST_F(RequestQueueTest, WhatFitsPassesWhatDoesNotForAWhile) {
  const RequestId large = Add("", 0, 0, /*slots=*/4);
  std::vector<RequestId> small;
  for (int i = 1; i < 6; ++i) small.push_back(Add("", i));
  EXPECT_EQ(Start(/*slots=*/0), 0u);
  now_ += absl::Hours(1);  // nothing has passed it: its patience has not begun
  EXPECT_EQ(Start(/*slots=*/2), small[0]);
  now_ += kOvertaking - absl::Milliseconds(1);
  EXPECT_EQ(Start(/*slots=*/2), small[1]);
  now_ += absl::Milliseconds(1);
  EXPECT_EQ(Start(/*slots=*/3), 0u);
  EXPECT_EQ(Start(/*slots=*/4), large);
  EXPECT_EQ(Start(/*slots=*/1), small[2]);
}

TEST_F(RequestQueueTest, OnlySoManyAreLookedAt) {
  for (int i = 0; i < kLookedAt; ++i) Add("", 0, 0, /*slots=*/4);
  Add("", 1);
  EXPECT_EQ(Start(/*slots=*/1), 0u);
}

TEST_F(RequestQueueTest, WhoLeavesIsTakenOutInOrder) {
  const RequestId a = Add("", 0), b = Add("", 1), c = Add("", 2);
  const auto gone = queue_.TakeOut([&](const ActiveRequest& request) { return request.id != b; });
  ASSERT_EQ(gone.size(), 2u);
  EXPECT_EQ(gone[0]->id, a);
  EXPECT_EQ(gone[1]->id, c);
  EXPECT_EQ(queue_.prompt_tokens(), 10);
  EXPECT_THAT(StartAll(0), ElementsAre(b));
  EXPECT_THAT(queue_.TakeOut([](const ActiveRequest&) { return true; }), IsEmpty());
}

TEST_F(RequestQueueTest, ManyPrincipalsAreForgottenAgain) {
  for (int i = 0; i < 20000; ++i) queue_.Charge(std::to_string(i), 100 + i);
  EXPECT_LE(queue_.principals(), 4096u);
  // Those who are furthest ahead are remembered.
  const RequestId ahead = Add("19999", 0), fresh = Add("fresh", 1);
  EXPECT_THAT(StartAll(1), ElementsAre(fresh, ahead));
}

}  // namespace
}  // namespace mambad
