// The plan of a step: who runs, with how many rows.

#include "engine/scheduler.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "engine/active_request.h"
#include "gtest/gtest.h"

namespace mambad {
namespace {

// Sequences as the core would hand them over; a plan's effect on them is put in by hand.
class SchedulerTest : public ::testing::Test {
 protected:
  // One that still reads its prompt of `tokens`, `fed` of them read.
  Answer& Prompt(int tokens, int fed = 0) {
    ActiveRequest& active = *requests_.emplace_back(std::make_unique<ActiveRequest>());
    active.request.prompt.assign(tokens, 1);
    Answer& answer = *active.answers.emplace_back(std::make_unique<Answer>());
    answer.request = &active;
    answer.sequence.tokens = active.request.prompt;
    answer.sequence.target.fed = fed;
    answer.prompt_length = tokens;
    active.forked = true;
    running_.push_back(&answer);
    wishes_.push_back(0);
    return answer;
  }
  // One whose last token is still to be read.
  Answer& Decoding(int wished_drafts = 0) {
    Answer& answer = Prompt(5, 5);
    answer.sequence.tokens.push_back(2);
    wishes_.back() = wished_drafts;
    return answer;
  }
  ActiveRequest& RequestOf(Answer& answer) { return *answer.request; }

  void Plan(int max_rows, int max_logit_rows) {
    if (scheduler_ == nullptr)
      scheduler_ =
          std::make_unique<Scheduler>(SchedulerLimits{max_rows, max_logit_rows, plan_grid_});
    scheduler_->Plan(running_, wishes_, &plan_);
    int rows = 0, logit_rows = 0;
    for (const StepEntry& entry : plan_) {
      EXPECT_GE(entry.feed, 1);
      EXPECT_LE(entry.feed, entry.sequence->backlog());
      EXPECT_LE(entry.score_begin + entry.scored, entry.feed);
      EXPECT_TRUE(entry.feeds_all() || entry.draft_length == 0);
      rows += entry.feed + entry.draft_length;
      logit_rows += entry.scored + (entry.feeds_all() ? 1 + entry.draft_length : 0);
    }
    EXPECT_LE(rows, max_rows);
    EXPECT_LE(logit_rows, max_logit_rows);
  }
  // "index:feed+drafts" of each entry, in the plan's order.
  std::string Text() const {
    std::string text;
    for (const StepEntry& entry : plan_) {
      const auto at = std::find(running_.begin(), running_.end(), entry.answer);
      text += (text.empty() ? "" : " ") + std::to_string(at - running_.begin()) + ":" +
              std::to_string(entry.feed) + "+" + std::to_string(entry.draft_length);
    }
    return text;
  }

  std::vector<std::unique_ptr<ActiveRequest>> requests_;
  std::vector<Answer*> running_;
  std::vector<int> wishes_;
  int64_t plan_grid_ = kPromptGrid;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<StepEntry> plan_;
};

TEST_F(SchedulerTest, NothingRunsWhereNothingWaits) {
  Plan(16, 16);
  EXPECT_TRUE(plan_.empty());
  Prompt(5, 5);  // all is read, nothing was kept: as while a score is being delivered
  Plan(16, 16);
  EXPECT_TRUE(plan_.empty());
}

TEST_F(SchedulerTest, DecodingComesBeforePromptsAndGetsItsDrafts) {
  Prompt(100);
  Decoding(3);
  Decoding(0);
  Plan(64, 64);
  EXPECT_EQ(Text(), "1:1+3 2:1+0 0:59+0");
}

TEST_F(SchedulerTest, APromptWaitsForNobodyForEver) {
  for (int i = 0; i < 8; ++i) Decoding(16);
  Prompt(100);
  Plan(32, 64);
  // A quarter of the rows is the prompt's, whatever drafts were wished.
  EXPECT_EQ(plan_.back().answer, running_[8]);
  EXPECT_EQ(plan_.back().feed, 8);
  int drafts = 0;
  for (const StepEntry& entry : plan_) drafts += entry.draft_length;
  EXPECT_EQ(drafts, 16);  // 32 - 8 of the prompt - 8 last tokens
}

TEST_F(SchedulerTest, TheLongestWishesAreCutFirst) {
  Decoding(1);
  Decoding(7);
  Decoding(4);
  Plan(3 + 9, 64);
  EXPECT_EQ(Text(), "0:1+1 1:1+4 2:1+4");
  Plan(3 + 9, 64);
  wishes_ = {7, 7, 7};
  Plan(3 + 9, 64);
  EXPECT_EQ(Text(), "0:1+3 1:1+3 2:1+3");
}

TEST_F(SchedulerTest, LogitRowsBoundDraftsToo) {
  Decoding(7);
  Decoding(7);
  Plan(64, 2 + 5);
  int drafts = 0;
  for (const StepEntry& entry : plan_) drafts += entry.draft_length;
  EXPECT_EQ(drafts, 5);
}

TEST_F(SchedulerTest, WhoDoesNotFitIsNextInTheNextStep) {
  for (int i = 0; i < 5; ++i) Decoding();
  std::vector<int> turns(5);
  for (int step = 0; step < 10; ++step) {
    Plan(2, 8);
    ASSERT_EQ(plan_.size(), 2u);
    for (const StepEntry& entry : plan_) {
      const auto at = std::find(running_.begin(), running_.end(), entry.answer);
      ++turns[at - running_.begin()];
    }
  }
  EXPECT_EQ(turns, std::vector<int>({4, 4, 4, 4, 4}));
}

TEST_F(SchedulerTest, PromptsAreReadOldestFirst) {
  Prompt(10, 4);
  Prompt(50);
  Prompt(50);
  Plan(40, 64);
  EXPECT_EQ(Text(), "0:6+0 1:34+0");
}

TEST_F(SchedulerTest, ALongPromptDoesNotHoldUpShortOnes) {
  Prompt(1000);
  Prompt(900);
  Prompt(10);
  Plan(64, 64);
  EXPECT_EQ(Text(), "0:32+0 2:10+0 1:22+0");
  running_.erase(running_.begin() + 1);
  wishes_.pop_back();
  Plan(64, 64);
  EXPECT_EQ(Text(), "0:52+0 1:10+0");
}

TEST_F(SchedulerTest, AWiderGridLetsLongPromptsTakeTheWholeStep) {
  Answer& prompt = Prompt(3000);
  plan_grid_ = kOpenPromptGrid;
  for (const int expected : {1024, 1024, 952}) {
    Plan(2000, 2000);
    ASSERT_EQ(plan_.size(), 1u);
    EXPECT_EQ(plan_[0].feed, expected) << "from " << prompt.sequence.target.fed;
    prompt.sequence.target.fed += plan_[0].feed;
  }
}

// In equal steps to the next border where one does not reach it.
TEST_F(SchedulerTest, NoChunkCrossesABorderOfTheGrid) {
  Answer& prompt = Prompt(1000);
  for (int rows : {40, 100, 200, 255, 256, 300, 700}) {
    Decoding();
    prompt.sequence.target.fed = 0;
    int chunks = 0;
    while (prompt.sequence.target.fed < 1000) {
      Plan(rows, rows);
      const StepEntry& chunk = plan_.back();
      ASSERT_EQ(chunk.answer, &prompt);
      const int64_t begin = prompt.sequence.target.fed, end = begin + chunk.feed;
      EXPECT_TRUE(begin / kPromptGrid == (end - 1) / kPromptGrid) << begin << " to " << end;
      prompt.sequence.target.fed = end;
      ++chunks;
    }
    const int room = rows - static_cast<int>(running_.size()) + 1;
    const int steps = (256 + room - 1) / room;
    EXPECT_LE(chunks, 4 * steps);
    scheduler_.reset();
  }
}

TEST_F(SchedulerTest, SamplesForkBeforeThePromptsLastToken) {
  Answer& first = Prompt(10);
  RequestOf(first).request.output.samples = 3;
  RequestOf(first).forked = false;
  Plan(64, 64);
  EXPECT_EQ(Text(), "0:9+0");
  first.sequence.target.fed = 9;
  Plan(64, 64);
  EXPECT_TRUE(plan_.empty());
  RequestOf(first).forked = true;
  Plan(64, 64);
  EXPECT_EQ(Text(), "0:1+0");
}

TEST_F(SchedulerTest, ScoredRowsPredictThePromptsTokensFromTheFirstAskedFor) {
  Answer& score = Prompt(20);
  RequestOf(score).request.score_from = 5;
  Plan(12, 64);
  ASSERT_EQ(plan_.size(), 1u);
  EXPECT_EQ(plan_[0].feed, 12);
  EXPECT_EQ(plan_[0].score_begin, 4);  // row 4 predicts token 5
  EXPECT_EQ(plan_[0].scored, 8);
  score.sequence.target.fed = 12;
  Plan(12, 64);
  EXPECT_EQ(plan_[0].feed, 7);  // the last token predicts nothing that is asked for
  EXPECT_EQ(plan_[0].score_begin, 0);
  EXPECT_EQ(plan_[0].scored, 7);
}

TEST_F(SchedulerTest, ScoredChunksShrinkToTheirLogits) {
  Answer& prompt = Prompt(100);
  RequestOf(prompt).request.output.prompt_logprobs = 0;
  Plan(64, 10);
  ASSERT_EQ(plan_.size(), 1u);
  EXPECT_EQ(plan_[0].feed, 9);
  EXPECT_EQ(plan_[0].scored, 9);
}

TEST_F(SchedulerTest, APreemptedSequenceReadsItsTextAgainAndScoresNothingTwice) {
  Answer& again = Decoding(4);  // prompt of 5 and one token of the answer
  RequestOf(again).request.output.prompt_logprobs = 0;
  again.sequence.target.fed = 0;
  again.scored_to = 3;
  Plan(64, 64);
  ASSERT_EQ(plan_.size(), 1u);
  EXPECT_EQ(plan_[0].feed, 6);
  EXPECT_EQ(plan_[0].draft_length, 0);
  EXPECT_EQ(plan_[0].score_begin, 3);
  EXPECT_EQ(plan_[0].scored, 1);
}

}  // namespace
}  // namespace mambad
