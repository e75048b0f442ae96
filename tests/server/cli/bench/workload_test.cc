#include "server/cli/bench/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace mambad::cli {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::Ge;
using testing::Lt;

WorkloadOptions RandomOptions() {
  WorkloadOptions options;
  options.random_tokens = 20;
  options.vocabulary = 100;
  return options;
}

PromptEntry TextEntry(const std::string& text) {
  PromptEntry entry;
  entry.turns = {text};
  return entry;
}

PromptEntry LengthEntry(int64_t tokens, std::vector<int64_t> blocks) {
  PromptEntry entry;
  entry.prompt_tokens = tokens;
  entry.blocks = std::move(blocks);
  return entry;
}

// How many tokens both begin with.
size_t CommonPrefix(const Talk& one, const Talk& other) {
  const auto& a = one.turns[0].token_ids;
  const auto& b = other.turns[0].token_ids;
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first -
                             a.begin());
}

TEST(WorkloadTest, RandomPromptsAreThoseOfTheirSeed) {
  WorkloadOptions options = RandomOptions();
  options.turns = 2;
  const Workload workload(options);
  const Talk talk = workload.TalkAt(3);
  ASSERT_EQ(talk.turns.size(), 2u);
  EXPECT_EQ(talk.turns[0].token_ids.size(), 20u);
  EXPECT_THAT(talk.turns[0].token_ids, Each(testing::AllOf(Ge(0), Lt(100))));
  EXPECT_NE(talk.turns[0].token_ids, talk.turns[1].token_ids);
  EXPECT_EQ(talk.turns[0].token_ids, Workload(options).TalkAt(3).turns[0].token_ids);
  EXPECT_NE(talk.turns[0].token_ids, workload.TalkAt(4).turns[0].token_ids);
  options.seed = 2;
  EXPECT_NE(talk.turns[0].token_ids, Workload(options).TalkAt(3).turns[0].token_ids);
}

TEST(WorkloadTest, ShareOfSessionsIsSpreadEvenly) {
  WorkloadOptions options = RandomOptions();
  for (const double share : {0.0, 0.25, 0.5, 1.0}) {
    options.kept_share = share;
    const Workload workload(options);
    int kept = 0;
    for (int index = 0; index < 8; ++index) kept += workload.TalkAt(index).is_kept;
    EXPECT_EQ(kept, std::lround(8 * share));
  }
}

TEST(WorkloadTest, TurnsOfAFile) {
  WorkloadOptions options;
  options.entries = {TextEntry("a"), TextEntry("b"), TextEntry("c")};
  options.entries[1].turns = {"one", "two", "three"};
  EXPECT_EQ(Workload(options).TalkAt(1).turns.size(), 3u);
  EXPECT_EQ(Workload(options).TalkAt(3).turns.size(), 1u);  // the first again
  options.turns = 2;
  EXPECT_EQ(Workload(options).TalkAt(1).turns.size(), 2u);
  options.entries[1].turns = {"b"};
  const Workload pairs(options);
  EXPECT_EQ(pairs.TalkAt(0).turns[1].text, "b");
  EXPECT_EQ(pairs.TalkAt(1).turns[0].text, "c");
  EXPECT_EQ(pairs.TalkAt(1).turns[1].text, "a");
}

TEST(WorkloadTest, BlocksOfATraceAreSharedBeginnings) {
  WorkloadOptions options = RandomOptions();
  options.random_tokens = 0;
  options.vocabulary = 1 << 20;
  options.scale = 0.125;  // blocks of 64 tokens
  options.entries = {LengthEntry(8 * 150, {1, 2, 3}), LengthEntry(8 * 150, {1, 2, 4}),
                     LengthEntry(8 * 64, {1}), LengthEntry(8 * 10, {2}), LengthEntry(800, {})};
  options.entries[0].answer_tokens = 80;
  const Workload workload(options);
  const Talk first = workload.TalkAt(0);
  EXPECT_EQ(first.turns[0].token_ids.size(), 150u);
  EXPECT_EQ(first.answer_tokens, 10);
  EXPECT_EQ(CommonPrefix(first, workload.TalkAt(1)), 128u);
  EXPECT_EQ(CommonPrefix(first, workload.TalkAt(2)), 64u);
  EXPECT_EQ(CommonPrefix(first, workload.TalkAt(3)), 0u);
  EXPECT_EQ(workload.TalkAt(4).turns[0].token_ids.size(), 100u);
}

TEST(TalkRequestsTest, WithoutSessionAllIsSentAgain) {
  Talk talk;
  talk.turns = {{"Once", {}}, {" then", {}}};
  talk.answer_tokens = 5;
  v1::GenerateRequest base;
  base.mutable_sampling()->set_seed(7);
  TalkRequests requests(base, talk, /*chat=*/false);
  v1::GenerateRequest request = requests.Next();
  EXPECT_EQ(request.text(), "Once");
  EXPECT_EQ(request.sampling().seed(), 7u);
  EXPECT_EQ(request.stopping().max_tokens(), 5);
  EXPECT_TRUE(request.stopping().ignore_eos());
  EXPECT_FALSE(request.has_keep_session());
  requests.Answered(" upon", {1, 2}, "id");
  request = requests.Next();
  EXPECT_EQ(request.text(), "Once upon then");
  EXPECT_FALSE(request.has_session_id());
}

TEST(TalkRequestsTest, ASessionIsToldWhatIsNew) {
  Talk talk;
  talk.is_kept = true;
  talk.turns = {{"", {1, 2}}, {"", {3}}};
  const v1::GenerateRequest base;
  TalkRequests requests(base, talk, /*chat=*/false);
  v1::GenerateRequest request = requests.Next();
  EXPECT_THAT(request.token_ids().ids(), ElementsAre(1, 2));
  EXPECT_TRUE(request.keep_session());
  requests.Answered("", {9}, "id");
  EXPECT_EQ(requests.session_id(), "id");
  request = requests.Next();
  EXPECT_THAT(request.token_ids().ids(), ElementsAre(3));
  EXPECT_EQ(request.session_id(), "id");
}

TEST(TalkRequestsTest, ChatsAreWholeConversations) {
  Talk talk;
  talk.turns = {{"Hi", {}}, {"Why?", {}}};
  const v1::GenerateRequest base;
  TalkRequests requests(base, talk, /*chat=*/true);
  EXPECT_EQ(requests.Next().conversation().messages_size(), 1);
  requests.Answered("Hello", {}, "");
  const v1::GenerateRequest request = requests.Next();
  ASSERT_EQ(request.conversation().messages_size(), 3);
  EXPECT_EQ(request.conversation().messages(1).role(), "assistant");
  EXPECT_EQ(request.conversation().messages(1).content(), "Hello");
  EXPECT_EQ(request.conversation().messages(2).content(), "Why?");
}

TEST(DrawArrivalsTest, IsAPoissonProcess) {
  const std::vector<double> arrivals = DrawArrivals(20, 3, 20001, std::nullopt);
  ASSERT_EQ(arrivals.size(), 20001u);
  EXPECT_EQ(arrivals[0], 0);
  std::vector<double> gaps(arrivals.size());
  std::adjacent_difference(arrivals.begin(), arrivals.end(), gaps.begin());
  gaps.erase(gaps.begin());
  EXPECT_THAT(gaps, Each(Ge(0)));
  // Of gaps that are exponential the mean is 1 / rate and so is the deviation; both here within
  // five times their own standard errors.
  const auto count = static_cast<double>(gaps.size());
  const double mean = std::accumulate(gaps.begin(), gaps.end(), 0.0) / count;
  double squares = 0;
  for (const double gap : gaps) squares += (gap - mean) * (gap - mean);
  EXPECT_NEAR(mean, 0.05, 5 * 0.05 / std::sqrt(count));
  EXPECT_NEAR(std::sqrt(squares / count), 0.05, 5 * 0.05 * std::sqrt(2 / count));
  EXPECT_EQ(arrivals, DrawArrivals(20, 3, 20001, std::nullopt));
  EXPECT_NE(arrivals, DrawArrivals(20, 4, 20001, std::nullopt));
}

TEST(DrawArrivalsTest, EndsWithItsTime) {
  const std::vector<double> arrivals = DrawArrivals(100, 1, 1000000, 2.0);
  EXPECT_THAT(arrivals, Each(testing::Le(2.0)));
  EXPECT_NEAR(static_cast<double>(arrivals.size()), 200, 75);  // five standard deviations
}

}  // namespace
}  // namespace mambad::cli
