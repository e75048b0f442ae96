// A request's life in the core: ways in, ways out, what comes back, what is given back.

#include "engine/engine_core.h"

#include <cmath>
#include <set>

#include "engine/retry_delay.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"

namespace mambad::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

// ---- invariant 5: every way out returns slot, pages and queue place -----------------------------

class WaysOut : public ::testing::TestWithParam<std::string> {};

TEST_P(WaysOut, Invariant5EveryWayOutReturnsSlotPagesAndQueuePlace) {
  EngineOptions options;
  options.max_sequences = 2;
  EngineDriver driver(GetParam(), "", options);
  ASSERT_EQ(driver.Held(), 0);

  driver.Run(driver.Plain(9, 5));  // runs to its end
  EXPECT_EQ(driver.Held(), 0);

  auto cancelled = driver.Send(driver.Plain(9, 50));
  auto waiting = driver.Send(driver.Plain(9, 50));
  const RequestId waiting_id = driver.last_id();
  auto queued = driver.Send(driver.Plain(9, 50));
  for (int i = 0; i < 3; ++i) driver.core().Step(absl::Now);
  EXPECT_GT(driver.Held(), 0);
  driver.core().Cancel(waiting_id - 1);  // while it runs
  driver.core().Cancel(waiting_id + 1);  // while it waits
  driver.core().Step(absl::Now);
  EXPECT_EQ(cancelled->answers[0].finish, FinishReason::kCancelled);
  EXPECT_EQ(queued->answers[0].finish, FinishReason::kCancelled);
  driver.RunAll();
  EXPECT_EQ(waiting->answers[0].finish, FinishReason::kLength);
  EXPECT_EQ(driver.Held(), 0);

  Request late = driver.Plain(9, 50);
  late.deadline = absl::Now() + absl::Hours(1);
  auto late_sink = driver.Send(std::move(late));
  driver.core().Step(absl::Now);
  driver.core().Step([] { return absl::Now() + absl::Hours(2); });
  EXPECT_EQ(late_sink->answers[0].finish, FinishReason::kDeadline);
  EXPECT_EQ(driver.Held(), 0);

  Request samples = driver.Plain(9, 50);
  samples.output.samples = 2;
  auto samples_sink = driver.Send(std::move(samples));
  driver.core().Step(absl::Now);
  driver.core().CancelAll();
  driver.core().Step(absl::Now);
  EXPECT_EQ(samples_sink->answers.size(), 2u);
  EXPECT_EQ(driver.Held(), 0);
  EXPECT_TRUE(driver.core().idle());
}

TEST_P(WaysOut, EveryRequestOfACrowdEndsOnce) {
  EngineOptions options;
  options.max_sequences = 3;
  options.max_step_rows = 12;
  EngineDriver driver(GetParam(), "", options);
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (int i = 0; i < 17; ++i) sinks.push_back(driver.Send(driver.Plain(1 + 5 * i, 1 + i % 4, i)));
  driver.RunAll();
  for (int i = 0; i < 17; ++i) {
    EXPECT_EQ(sinks[i]->answers[0].finishes, 1) << i;
    EXPECT_EQ(sinks[i]->answers[0].tokens.size(), 1u + i % 4) << i;
  }
  EXPECT_EQ(driver.Held(), 0);
}

INSTANTIATE_TEST_SUITE_P(Families, WaysOut,
                         ::testing::Values("llama_tied", "mamba", "mamba2", "hybrid_mamba",
                                           "hybrid_mamba2"),
                         [](const auto& info) { return info.param; });

// ---- limits and validation ----------------------------------------------------------------------

TEST(EngineCore, TheQueueIsBounded) {
  EngineOptions options;
  options.max_sequences = 1;
  options.max_waiting = 2;
  EngineDriver driver("mamba", "", options);
  for (int i = 0; i < 3; ++i) driver.Send(driver.Plain(3, 2));  // one starts, two wait
  auto sink = std::make_shared<CollectingSink>();
  EXPECT_EQ(driver.core().Admit(99, driver.Plain(3, 2), sink, absl::Now()).code(),
            absl::StatusCode::kResourceExhausted);
  driver.RunAll();
  EXPECT_TRUE(driver.core().Admit(100, driver.Plain(3, 2), sink, absl::Now()).ok());
}

TEST(EngineCore, BadRequestsAreNamed) {
  EngineDriver driver("hybrid_mamba");
  struct Case {
    const char* field;
    void (*spoil)(Request&);
  };
  const Case cases[] = {
      {"prompt: 0 tokens given, allowed 1 to", [](Request& r) { r.prompt.clear(); }},
      {"prompt[1]: id -1 given, allowed 0 to", [](Request& r) { r.prompt[1] = -1; }},
      {"prompt[0]: id 1000000 given", [](Request& r) { r.prompt[0] = 1000000; }},
      {"prompt: 100000 tokens given, allowed 1 to", [](Request& r) { r.prompt.assign(100000, 1); }},
      {"sampling.temperature: -1", [](Request& r) { r.sampling.temperature = -1; }},
      {"sampling.temperature: nan", [](Request& r) { r.sampling.temperature = NAN; }},
      {"sampling.top_p: 0 given, allowed 1e-06 to 1", [](Request& r) { r.sampling.top_p = 0; }},
      {"sampling.top_p: 1e-07 given, allowed 1e-06 to 1",
       [](Request& r) { r.sampling.top_p = 1e-7f; }},
      {"sampling.logit_bias[3]: 1001 given, allowed -1000 to 1000",
       [](Request& r) {
         r.sampling.logit_bias = {{3, 1001.0f}};
       }},
      {"sampling.top_k", [](Request& r) { r.sampling.top_k = -1; }},
      {"sampling.min_p", [](Request& r) { r.sampling.min_p = 1.5; }},
      {"sampling.repetition_penalty", [](Request& r) { r.sampling.repetition_penalty = 0; }},
      {"sampling.logit_bias[-3]: id -3 given, allowed 0 to",
       [](Request& r) {
         r.sampling.logit_bias = {{-3, 1.0f}};
       }},
      {"sampling.allowed_token_ids[0]: id 1048576 given, allowed 0 to",
       [](Request& r) { r.sampling.allowed_token_ids = {1 << 20}; }},
      {"stopping.max_tokens", [](Request& r) { r.stopping.max_tokens = -1; }},
      {"stopping.min_tokens",
       [](Request& r) { r.stopping.min_tokens = 100, r.stopping.max_tokens = 10; }},
      {"stopping.stop_token_ids: 100 ids given, allowed at most",
       [](Request& r) { r.stopping.stop_token_ids.assign(100, 1); }},
      {"stopping.stop_token_ids[1]: id -5 given, allowed 0 to",
       [](Request& r) {
         r.stopping.stop_token_ids = {1, -5};
       }},
      {"stopping.min_tokens: 1 given, allowed 0 when",
       [](Request& r) {
         r.stopping.min_tokens = 1;
         r.sampling.allowed_token_ids = {4, 5};
         r.stopping.stop_token_ids = {5, 4};
       }},
      {"stopping.stop_strings", [](Request& r) { r.stopping.stop_strings = {""}; }},
      {"output.logprobs", [](Request& r) { r.output.logprobs = 1000; }},
      {"output.n", [](Request& r) { r.output.samples = 0; }},
      {"output.n", [](Request& r) { r.output.samples = 1000; }},
      {"speculation.draft_length", [](Request& r) { r.speculation.draft_length = 100; }},
      {"speculation.mode", [](Request& r) { r.speculation.mode = SpeculationMode::kDraftModel; }},
      {"priority: 101 given, allowed -100 to 100", [](Request& r) { r.priority = 101; }},
      {"from: 0 given", [](Request& r) { r.score_from = 0; }},
      {"output.n: 2 given", [](Request& r) { r.score_from = 1, r.output.samples = 2; }},
      {"alternatives: 99 given",
       [](Request& r) { r.score_from = 1, r.output.prompt_logprobs = 99; }},
  };
  for (const Case& c : cases) {
    Request request = driver.Plain(5, 5);
    c.spoil(request);
    const absl::Status status = driver.core().Validate(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.field;
    EXPECT_THAT(std::string(status.message()), StartsWith(c.field));
    // "field: what was given, what is allowed", the field a path that the wire knows.
    EXPECT_THAT(std::string(status.message()),
                MatchesRegex("[a-z_.]+(\\[-?[0-9]+\\])?: .+ given, allowed .+"));
  }
  EXPECT_TRUE(driver.core().Validate(driver.Plain(5, 5)).ok());
}

TEST(EngineCore, MinTokensNeedSomethingToSay) {
  EngineDriver driver("mamba");
  Request request = driver.Plain(5, 5);
  request.stopping.min_tokens = 2;
  request.sampling.allowed_token_ids = {4, 5};
  request.stopping.stop_token_ids = {5};
  const Answer answer = driver.Run(request);
  ASSERT_GE(answer.tokens.size(), 2u);
  EXPECT_EQ(answer.tokens[0], 4);
  EXPECT_EQ(answer.tokens[1], 4);
  request.stopping.stop_token_ids = {5, 4};
  EXPECT_FALSE(driver.core().Validate(request).ok());
  request.stopping.min_tokens = 0;  // the answer ends with its first token
  EXPECT_EQ(driver.Run(request).tokens.size(), 1u);
}

TEST(EngineCore, LogprobsOfPromptsAreBounded) {
  EngineOptions options;
  options.max_context = 1 << 20;
  options.max_sequences = 1;
  EngineDriver driver("mamba", "", options);
  Request request = driver.Plain(800000, 1);
  EXPECT_TRUE(driver.core().Validate(request).ok());
  request.output.prompt_logprobs = 0;
  EXPECT_THAT(std::string(driver.core().Validate(request).message()),
              StartsWith("output.prompt_logprobs: 0 for 799999 tokens given, allowed for at most"));
  request.prompt.resize(100000);
  EXPECT_TRUE(driver.core().Validate(request).ok());
  request.output.prompt_logprobs = 20;
  EXPECT_FALSE(driver.core().Validate(request).ok());
  request.score_from = 99000;  // few are asked for
  EXPECT_TRUE(driver.core().Validate(request).ok());
}

// ---- what an answer says ------------------------------------------------------------------------

TEST(EngineCore, StopIdsEndTheAnswerAndMinTokensHoldThemOff) {
  EngineDriver driver("mamba");
  const Answer whole = driver.Run(driver.Plain(8, 12));
  ASSERT_EQ(whole.tokens.size(), 12u);
  Request request = driver.Plain(8, 12);
  request.stopping.stop_token_ids = {whole.tokens[4]};
  const Answer stopped = driver.Run(request);
  EXPECT_EQ(stopped.finish, FinishReason::kStop);
  EXPECT_EQ(stopped.matched_stop_id, whole.tokens[4]);
  const auto first =
      std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[4]) - whole.tokens.begin();
  EXPECT_EQ(stopped.tokens,
            std::vector<TokenId>(whole.tokens.begin(), whole.tokens.begin() + first + 1));

  request.stopping.min_tokens = 7;
  const Answer held = driver.Run(request);
  EXPECT_GE(held.tokens.size(), 7u);
  for (size_t i = 0; i + 1 < held.tokens.size(); ++i)
    EXPECT_NE(held.tokens[i], whole.tokens[4]) << i;
}

TEST(EngineCore, SamplesForkAfterThePromptAndDifferBySeed) {
  EngineOptions options;
  options.max_sequences = 4;
  EngineDriver driver("hybrid_mamba2", "", options);
  Request request = driver.Plain(21, 10);
  request.output.samples = 4;
  const auto greedy = driver.Send(request);
  driver.RunAll();
  const Answer alone = driver.Run(driver.Plain(21, 10));
  ASSERT_EQ(greedy->answers.size(), 4u);
  for (const auto& [index, answer] : greedy->answers)
    EXPECT_EQ(answer.tokens, alone.tokens) << index;

  request.sampling.temperature = 3;
  request.sampling.seed = 17;
  const auto sampled = driver.Send(request);
  driver.RunAll();
  std::set<std::vector<TokenId>> different;
  for (const auto& [index, answer] : sampled->answers) different.insert(answer.tokens);
  EXPECT_EQ(different.size(), 4u);
  // No sample of one seed is a sample of the next; the first is what a request for one gets.
  Request one = driver.Plain(21, 10);
  one.sampling = request.sampling;
  EXPECT_EQ(driver.Run(one).tokens, sampled->answers[0].tokens);
  request.sampling.seed = 18;
  const auto next = driver.Send(request);
  driver.RunAll();
  for (const auto& [index, answer] : next->answers) different.insert(answer.tokens);
  EXPECT_EQ(different.size(), 8u);
}

// Invariants 2 and 3 for the samples of one request.
TEST(EngineCore, Invariant2SamplesAreTheSameWhateverIsDrafted) {
  EngineDriver plain("hybrid_mamba2", "", {}), drafted("hybrid_mamba2", "llama_tied", {});
  Request request = plain.Plain(21, 40);
  request.output.samples = 4;
  request.sampling.temperature = 0.8f;
  request.sampling.seed = 5;
  const auto expected = plain.Send(request);
  plain.RunAll();
  ASSERT_EQ(expected->answers.size(), 4u);
  int64_t drafts = 0;
  for (const SpeculationMode mode :
       {SpeculationMode::kDraftModel, SpeculationMode::kPromptLookup, SpeculationMode::kAuto}) {
    request.speculation.mode = mode;
    if (mode != SpeculationMode::kAuto) request.speculation.draft_length = 3;
    const auto company = drafted.Send(drafted.Plain(33, 20));
    const auto sink = drafted.Send(request);
    drafted.RunAll();
    for (const auto& [index, answer] : expected->answers) {
      EXPECT_EQ(sink->answers[index].tokens, answer.tokens) << index;
      if (sink->answers[index].stats.has_value())
        drafts += sink->answers[index].stats->speculation.drafted;
    }
  }
  EXPECT_GT(drafts, 20);
}

TEST(EngineCore, LogprobsAgreeWithScoring) {
  EngineDriver driver("mamba2");
  Request request = driver.Plain(11, 6);
  request.output.logprobs = 3;
  request.output.prompt_logprobs = 2;
  const Answer answer = driver.Run(request);
  ASSERT_EQ(answer.logprobs.size(), 6u);
  ASSERT_EQ(answer.prompt_logprobs.size(), 10u);
  for (const TokenLogprob& logprob : answer.logprobs) {
    ASSERT_EQ(logprob.alternatives.size(), 3u);
    EXPECT_EQ(logprob.alternatives[0].first, logprob.id);  // greedy
    EXPECT_EQ(logprob.alternatives[0].second, logprob.logprob);
    EXPECT_LE(logprob.logprob, 0.0f);
  }

  Request score;
  score.prompt = FormulaTokens(11, driver.vocabulary());
  score.prompt.insert(score.prompt.end(), answer.tokens.begin(), answer.tokens.end());
  score.score_from = 1;
  const Answer scored = driver.Run(score);
  ASSERT_EQ(scored.prompt_logprobs.size(), 16u);
  EXPECT_TRUE(scored.tokens.empty());
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(scored.prompt_logprobs[i].id, score.prompt[i + 1]);
    EXPECT_EQ(scored.prompt_logprobs[i].logprob, answer.prompt_logprobs[i].logprob) << i;
  }
  for (int i = 0; i < 6; ++i)
    EXPECT_EQ(scored.prompt_logprobs[10 + i].logprob, answer.logprobs[i].logprob) << i;
  score.score_from = 11;
  EXPECT_EQ(driver.Run(score).prompt_logprobs.size(), 6u);
  EXPECT_EQ(driver.Held(), 0);
}

TEST(EngineCore, LongPromptsAreScoredInChunks) {
  EngineOptions options;
  options.max_sequences = 1;
  options.max_draft_length = 1;
  std::vector<std::vector<TokenLogprob>> results;
  for (int rows : {16, 256, 1024}) {
    options.max_step_rows = rows;
    EngineDriver driver("mamba", "", options);
    Request request = driver.Plain(700, 1);
    request.output.prompt_logprobs = 0;
    results.push_back(driver.Run(request).prompt_logprobs);
    ASSERT_EQ(results.back().size(), 699u);
    for (int i = 0; i < 699; ++i) {
      EXPECT_EQ(results.back()[i].id, request.prompt[i + 1]) << i;
      EXPECT_EQ(results.back()[i].logprob, results.front()[i].logprob) << i;
    }
  }
}

TEST(EngineCore, AReaderThatFallsBehindPausesItsRequestOnly) {
  EngineDriver driver("mamba");
  auto slow = driver.Send(driver.Plain(4, 6));
  const RequestId slow_id = driver.last_id();
  slow->pause_after_each = true;
  auto quick = driver.Send(driver.Plain(4, 6, 1));
  driver.RunAll();
  EXPECT_EQ(quick->answers[0].finishes, 1);
  EXPECT_EQ(slow->answers[0].finishes, 0);
  const size_t before = slow->answers[0].tokens.size();
  EXPECT_LT(before, 6u);
  slow->pause_after_each = false;
  driver.core().Resume(slow_id);
  driver.RunAll();
  EXPECT_EQ(slow->answers[0].finishes, 1);
  EXPECT_EQ(slow->answers[0].tokens, driver.Run(driver.Plain(4, 6)).tokens);
}

TEST(EngineCore, HigherPriorityStartsFirst) {
  EngineOptions options;
  options.max_sequences = 1;
  EngineDriver driver("mamba", "", options);
  auto low = driver.Send(driver.Plain(4, 2));
  Request urgent = driver.Plain(4, 2);
  urgent.priority = 100;
  auto high = driver.Send(urgent);
  while (high->answers[0].finishes == 0) ASSERT_TRUE(driver.core().Step(absl::Now));
  EXPECT_EQ(low->answers[0].finishes, 0);
  driver.RunAll();
  EXPECT_EQ(low->answers[0].finishes, 1);
}

// Nothing waits for ever: a point of priority is worth so much of waiting, and no more.
TEST(EngineCore, WhatWaitsRises) {
  EngineOptions options;
  options.max_sequences = 1;
  EngineDriver driver("mamba", "", options);
  absl::Time now = absl::UnixEpoch() + absl::Hours(1);
  const auto clock = [&now] { return now; };
  RequestId last = 0;
  const auto send = [&](int priority) {
    Request request = driver.Plain(4, 2);
    request.priority = priority;
    auto sink = std::make_shared<CollectingSink>();
    EXPECT_TRUE(driver.core().Admit(++last, std::move(request), sink, now).ok());
    return sink;
  };
  const auto finished = [](const std::shared_ptr<CollectingSink>& sink) {
    return sink->answers[0].finishes > 0;
  };
  const auto patient = send(-100);
  // A stream of the most urgent ones, half a second between them, and always one that waits.
  std::vector<std::shared_ptr<CollectingSink>> urgent = {send(100)};
  absl::Duration waited;
  while (!finished(patient) && urgent.size() < 100) {
    now += absl::Milliseconds(500);
    urgent.push_back(send(100));
    while (!finished(patient) && !finished(urgent[urgent.size() - 2]))
      ASSERT_TRUE(driver.core().Step(clock));
  }
  // 200 points are worth 10 s: those that came up to then went before it, no other did.
  EXPECT_TRUE(finished(patient));
  EXPECT_EQ(urgent.size(), 22u);
  EXPECT_TRUE(finished(urgent[19]));
  EXPECT_FALSE(finished(urgent[21]));
}

// One that asks for more slots than are free is passed by those that fit, but not for ever.
TEST(EngineCore, ALargeRequestNeitherStopsOthersNorStarves) {
  EngineOptions options;
  options.max_sequences = 2;
  EngineDriver driver("mamba", "", options);
  absl::Time now = absl::UnixEpoch() + absl::Hours(1);
  const auto clock = [&now] { return now += absl::Milliseconds(100); };
  RequestId last = 0;
  const auto send = [&](int samples, int tokens) {
    Request request = driver.Plain(4, tokens);
    request.output.samples = samples;
    auto sink = std::make_shared<CollectingSink>();
    EXPECT_TRUE(driver.core().Admit(++last, std::move(request), sink, now).ok());
    return sink;
  };
  const auto finished = [](const auto& sink) { return sink->answers[0].finishes > 0; };
  const auto held = send(1, 200);
  ASSERT_TRUE(driver.core().Step(clock));
  const auto large = send(2, 2);
  // Always a small one beside, whose slot the large one cannot use alone.
  std::vector<std::shared_ptr<CollectingSink>> small;
  while (!finished(held)) {
    if (small.empty() || finished(small.back())) small.push_back(send(1, 2));
    ASSERT_TRUE(driver.core().Step(clock));
    ASSERT_LT(small.size(), 100u);
  }
  EXPECT_GT(small.size(), 3u);
  EXPECT_FALSE(finished(small.back()));
  EXPECT_FALSE(finished(large));
  while (!finished(small.back())) ASSERT_TRUE(driver.core().Step(clock));
  EXPECT_TRUE(finished(large));
}

// Whose deadline would pass in the queue is refused at once, with a time; whoever has the time, or
// goes before those that wait, is not.
TEST(EngineCore, ADeadlineThatWaitingWouldBreakIsRefused) {
  EngineOptions options;
  options.max_sequences = 1;
  EngineDriver driver("mamba", "", options);
  absl::Time now = absl::UnixEpoch() + absl::Hours(1);
  const auto clock = [&now] { return now += absl::Milliseconds(5); };  // 10 ms a step
  RequestId last = 0;
  const auto send = [&](int tokens, absl::Duration patience, int priority = 0,
                        const std::string& principal = "") {
    Request request = driver.Plain(2, tokens);
    request.stopping.ignore_eos = true;
    request.deadline = now + patience;
    request.priority = priority;
    request.principal = principal;
    return driver.core().Admit(++last, std::move(request), std::make_shared<CollectingSink>(), now);
  };
  // Nothing is known yet: nobody is refused.
  ASSERT_TRUE(send(100, absl::InfiniteDuration()).ok());
  ASSERT_TRUE(send(100, absl::Milliseconds(1)).ok());
  for (int step = 0; step < 20; ++step) ASSERT_TRUE(driver.core().Step(clock));
  // The one that runs takes some 0.8 s still; the one that waited has gone.
  ASSERT_TRUE(send(100, absl::InfiniteDuration()).ok());  // 1 s more
  EXPECT_TRUE(send(10, absl::Seconds(3)).ok());
  const absl::Status late = send(10, absl::Seconds(1));
  EXPECT_EQ(late.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(late.message()), ::testing::HasSubstr("the deadline cannot be met"));
  // 1.9 s until it starts, 0.1 s for itself, one that it has.
  EXPECT_GT(RetryDelayOf(late), absl::Milliseconds(700));
  EXPECT_LT(RetryDelayOf(late), absl::Milliseconds(1500));
  // Before the one that waits it would start in time.
  EXPECT_TRUE(send(5, absl::Seconds(1.2), /*priority=*/100).ok());
  EXPECT_FALSE(send(5, absl::Milliseconds(100), /*priority=*/100).ok());
  // One that takes too long by itself may have what there is of it.
  EXPECT_TRUE(send(1000, absl::Seconds(6)).ok());
  driver.RunAll();
}

// A caller that sends much at once is not in the way of another.
TEST(EngineCore, PrincipalsTakeTurns) {
  EngineOptions options;
  options.max_sequences = 1;
  EngineDriver driver("mamba", "", options);
  const auto send = [&](const std::string& principal) {
    Request request = driver.Plain(8, 4);
    request.principal = principal;
    return driver.Send(std::move(request));
  };
  std::vector<std::shared_ptr<CollectingSink>> many;
  for (int i = 0; i < 20; ++i) many.push_back(send("many"));
  const auto other = send("other");
  while (other->answers[0].finishes == 0) ASSERT_TRUE(driver.core().Step(absl::Now));
  EXPECT_EQ(many[0]->answers[0].finishes, 1);
  EXPECT_EQ(many[2]->answers[0].finishes, 0);
  driver.RunAll();
  for (const auto& sink : many) EXPECT_EQ(sink->answers[0].finishes, 1);
}

TEST(EngineCore, PenalisedSequencesWaitForRowsAndSayTheSame) {
  EngineOptions options;
  options.max_sequences = 4;
  const auto penalised = [](const EngineDriver& driver, uint64_t seed) {
    Request request = driver.Plain(6, 12, seed);
    request.sampling.frequency_penalty = 1.5f;
    request.sampling.logit_bias = {{3, 2.0f + static_cast<float>(seed)}};
    return request;
  };
  EngineDriver wide("mamba", "", options);
  options.max_penalised = 1;
  EngineDriver narrow("mamba", "", options);
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (uint64_t seed = 0; seed < 3; ++seed) sinks.push_back(narrow.Send(penalised(narrow, seed)));
  narrow.Send(narrow.Plain(6, 12));
  narrow.core().Step(absl::Now);
  EXPECT_EQ(narrow.core().stats().running, 2);
  EXPECT_EQ(narrow.core().stats().waiting, 2);
  narrow.RunAll();
  for (uint64_t seed = 0; seed < 3; ++seed) {
    EXPECT_EQ(sinks[seed]->answers[0].tokens, wide.Run(penalised(wide, seed)).tokens) << seed;
  }
  EXPECT_EQ(narrow.Held(), 0);

  Request two = penalised(narrow, 0);
  two.output.samples = 2;
  EXPECT_THAT(std::string(narrow.core().Validate(two).message()),
              StartsWith("output.n: 2 samples with penalties or biases given, allowed at most 1"));
}

TEST(EngineCore, EchoIsDecodedOnceAndStandsBeforeEverySample) {
  EngineDriver driver("mamba");
  Request request = driver.Plain(4, 3);
  request.output.samples = 2;
  request.output.echo = true;
  request.echo_text = "what was said";  // as the shell decodes it before the queue
  auto sink = driver.Send(request);
  driver.RunAll();
  EXPECT_EQ(sink->answers[0].text.substr(0, 13), "what was said");
  EXPECT_EQ(sink->answers[1].text.substr(0, 13), "what was said");
}

TEST(EngineCore, ADraftModelOfAnotherVocabularyIsRefused) {
  TemporaryDirectory target, draft;
  MakeFormulaModel("mamba").directory.Write(target.path(), StoredAs::kFloat32);
  FormulaModel other = MakeFormulaModel("mamba_state_spaces");
  if (other.padded_vocabulary == MakeFormulaModel("mamba").padded_vocabulary)
    GTEST_SKIP() << "same vocabulary";
  other.directory.Write(draft.path(), StoredAs::kFloat32);
  EngineOptions options;
  options.model = target.path();
  options.draft_model = draft.path();
  const absl::Status status = EngineCore::Open(options, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("vocabulary"));
}

}  // namespace
}  // namespace mambad::testing
