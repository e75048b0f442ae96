// What a request takes of an engine's room, without an engine: numbers in, numbers out.

#include "engine/capacity.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::testing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kPage = kernels::kPageTokens;

class CapacityTest : public ::testing::Test {
 protected:
  CapacityTest() {
    facts_.options.max_sequences = facts_.options.max_penalised = 4;
    facts_.model.vocabulary = 100;
    facts_.model.context = 8 * kPage;
    facts_.model.most_stop_token_ids = kernels::kMaxStopIds;
  }
  // Of so many pages; 0: no attention layers.
  static CacheSize Cache(int64_t pages) { return {pages > 0, pages}; }
  Capacity Of(int64_t target, int64_t draft) const { return {facts_, Cache(target), Cache(draft)}; }
  static Request Asking(int64_t prompt, int64_t max_tokens, int samples = 1) {
    Request request;
    request.prompt.assign(prompt, 1);
    request.stopping.max_tokens = max_tokens;
    request.output.samples = samples;
    return request;
  }

  EngineFacts facts_;
};

TEST_F(CapacityTest, AnUnnamedAnswerMayTakeItsShareOfTheSmallerCache) {
  EXPECT_EQ(Of(0, 0).TokenLimit(Asking(5, 0)), 8 * kPage) << "the context";
  EXPECT_EQ(Of(6, 0).TokenLimit(Asking(5, 0)), 6 * kPage);
  EXPECT_EQ(Of(6, 4).TokenLimit(Asking(5, 0)), 4 * kPage);
  EXPECT_EQ(Of(0, 4).TokenLimit(Asking(5, 0)), 4 * kPage) << "only the draft model has a cache";
  EXPECT_EQ(Of(6, 4).TokenLimit(Asking(5, 0, 3)), kPage);
}

TEST_F(CapacityTest, ANamedAnswerMayReachWhatWasNamedWithinTheContext) {
  EXPECT_EQ(Of(6, 4).TokenLimit(Asking(5, 7)), 12);
  EXPECT_EQ(Of(6, 4).TokenLimit(Asking(5, 100 * kPage)), 8 * kPage);
  Request score = Asking(5, 0);
  score.score_from = 1;
  EXPECT_EQ(Of(6, 4).TokenLimit(score), 5) << "nothing is made";
  EXPECT_EQ(Of(6, 4).SizeOf(score).limit, 0);
  EXPECT_TRUE(Of(6, 4).SizeOf(score).named);
  EXPECT_FALSE(Of(6, 4).SizeOf(Asking(5, 0)).named);
}

// The draft model reads each sample's prompt for itself.
TEST_F(CapacityTest, SamplesShareTheTargetsFullPagesOnly) {
  EXPECT_EQ(Of(10, 0).PagesFor(2, 3 * kPage, 2 * kPage), 2 + 2);
  EXPECT_EQ(Of(10, 6).PagesFor(2, 3 * kPage, 2 * kPage), 6) << "the draft's";
  EXPECT_EQ(Of(10, 0).PagesFor(2, 3 * kPage, 2 * kPage - 1), 1 + 2 * 2);
  EXPECT_EQ(Of(0, 0).PagesFor(2, 3 * kPage, 2 * kPage), 0);
  EXPECT_EQ(Of(10, 6).pages_total(), 10);
  EXPECT_EQ(Of(0, 6).pages_total(), 6);
  EXPECT_EQ(Of(0, 0).pages_total(), 0);
}

TEST_F(CapacityTest, WhatFitsAnEmptyEngineIsValidAndNothingElse) {
  const auto two = [](int64_t tokens) { return Asking(2 * kPage + 1, tokens, 2); };
  EXPECT_TRUE(Of(4, 0).Validate(two(kPage - 1)).ok()) << "two pages are shared, one each is not";
  EXPECT_THAT(std::string(Of(3, 0).Validate(two(kPage - 1)).message()),
              HasSubstr("output.n: 2 samples of up to"));
  EXPECT_FALSE(Of(4, 5).Validate(two(kPage - 1)).ok()) << "the draft's cache shares nothing";
  EXPECT_TRUE(Of(4, 6).Validate(two(kPage - 1)).ok());
  EXPECT_FALSE(Of(4, 0).Validate(two(kPage)).ok()) << "one token more begins pages";
  EXPECT_FALSE(Of(4, 0).Validate(two(0)).ok()) << "whoever may start anew shares nothing";
}

TEST_F(CapacityTest, ADemandIsOfPagesAndOfTimeAtThePaceThatIsTold) {
  const ServicePace pace;  // guesses
  const ServiceDemand demand = Of(8, 0).DemandOf(Asking(2 * kPage, 3 * kPage, 2), pace);
  EXPECT_EQ(demand.slots, 2);
  EXPECT_EQ(demand.prompt_tokens, 2 * kPage);
  EXPECT_EQ(demand.pages, 1 + 2 * 4) << "one full page lies before the fork";
  EXPECT_DOUBLE_EQ(demand.reading, 2 * kPage * pace.SecondsAPromptToken());
  EXPECT_DOUBLE_EQ(demand.seconds, 3 * kPage * pace.SecondsAToken());
}

}  // namespace
}  // namespace mambad::testing
