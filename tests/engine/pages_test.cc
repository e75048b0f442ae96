// Pages of keys and values when answers of unknown length outgrow them: who is preempted, and that
// nobody can tell from the answers.

#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/arithmetic.h"
#include "tests/engine/engine_driver.h"

namespace mambad::testing {
namespace {

using ::testing::HasSubstr;

// Room for one whole context and no more: 32 pages.
EngineOptions OneContext() {
  EngineOptions options;
  options.max_sequences = 4;
  options.max_context = options.kv_cache_tokens = 512;
  return options;
}

// An answer up to the context's end, with all that preemption could get wrong.
Request Endless(const EngineDriver& driver, int prompt, uint64_t seed) {
  Request request = driver.Plain(prompt, 0, seed);
  request.sampling.temperature = 0.8f;
  request.sampling.seed = seed;
  request.sampling.frequency_penalty = 0.1f;
  request.sampling.repetition_penalty = 1.1f;
  request.output.logprobs = 1;
  request.output.prompt_logprobs = 0;
  return request;
}

void ExpectSame(const Answer& a, const Answer& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (size_t i = 0; i < a.logprobs.size(); ++i)
    ASSERT_EQ(a.logprobs[i].logprob, b.logprobs[i].logprob) << i;
  ASSERT_EQ(a.prompt_logprobs.size(), b.prompt_logprobs.size());
  for (size_t i = 0; i < a.prompt_logprobs.size(); ++i)
    ASSERT_EQ(a.prompt_logprobs[i].logprob, b.prompt_logprobs[i].logprob) << i;
  EXPECT_EQ(a.text, b.text);
}

struct Models {
  const char *target, *draft;
};

class Preemption : public ::testing::TestWithParam<std::tuple<Models, Arithmetic>> {
 protected:
  void SetUp() override {
    const auto& [models, arithmetic] = GetParam();
    driver_ = std::make_unique<EngineDriver>(models.target, models.draft,
                                             arithmetic.AddedTo(OneContext()));
  }
  Request Make(int prompt, uint64_t seed) {
    Request request = Endless(*driver_, prompt, seed);
    if (std::get<0>(GetParam()).draft[0] != 0) {
      request.speculation.mode = SpeculationMode::kDraftModel;
      request.speculation.draft_length = 3;
    }
    return request;
  }
  std::unique_ptr<EngineDriver> driver_;
};

TEST_P(Preemption, Invariant3AnswersAreThoseOfRequestsAlone) {
  std::vector<Answer> alone;
  for (int i = 0; i < 3; ++i) alone.push_back(driver_->Run(Make(5 + 9 * i, i)));
  EXPECT_EQ(driver_->core().stats().preemptions, 0);
  const int64_t prompt_tokens = driver_->core().stats().prompt_tokens;

  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (int i = 0; i < 3; ++i) sinks.push_back(driver_->Send(Make(5 + 9 * i, i)));
  driver_->RunAll();
  EXPECT_GT(driver_->core().stats().preemptions, 0);
  EXPECT_LT(driver_->core().stats().preemptions, 10);  // not over and over
  for (int i = 0; i < 3; ++i) {
    SCOPED_TRACE(i);
    const Answer& answer = sinks[i]->answers[0];
    EXPECT_EQ(answer.finishes, 1);
    EXPECT_EQ(answer.finish, FinishReason::kLength);
    EXPECT_EQ(answer.tokens.size(), 512u - (5 + 9 * i));
    ExpectSame(answer, alone[i]);
  }
  EXPECT_EQ(driver_->core().stats().prompt_tokens, 2 * prompt_tokens);
  EXPECT_EQ(driver_->Held(), 0);
}

TEST_P(Preemption, SamplesArePreemptedTogether) {
  Request samples = Make(30, 5);
  samples.output.samples = 2;
  samples.output.prompt_logprobs = -1;
  const auto alone = driver_->Send(samples);
  driver_->RunAll();
  EXPECT_EQ(driver_->core().stats().preemptions, 0);
  EXPECT_EQ(alone->answers[0].tokens.size(), 256u - 30);  // the cache's share of each
  const auto first = driver_->Send(Make(10, 6));
  for (int i = 0; i < 3; ++i) driver_->core().Step(absl::Now);
  const auto second = driver_->Send(samples);
  driver_->RunAll();
  for (int sample : {0, 1}) ExpectSame(second->answers[sample], alone->answers[sample]);
  EXPECT_EQ(first->answers[0].tokens.size(), 512u - 10);
  EXPECT_EQ(driver_->Held(), 0);
}

std::string PreemptionName(const ::testing::TestParamInfo<Preemption::ParamType>& info) {
  const auto& [models, arithmetic] = info.param;
  return std::string(models.target) + "_" + models.draft + "_" + arithmetic.name;
}

INSTANTIATE_TEST_SUITE_P(Families, Preemption,
                         ::testing::Combine(::testing::Values(Models{"llama_tied", ""},
                                                              Models{"hybrid_mamba", ""},
                                                              Models{"hybrid_mamba2", "llama_tied"},
                                                              Models{"llama_tied", "mamba"}),
                                            ::testing::ValuesIn(ExtremeArithmetics())),
                         PreemptionName);

TEST(Pages, ComeAsTheAnswerGrows) {
  EngineDriver driver("llama_tied", "", OneContext());
  auto sink = driver.Send(driver.Plain(20, 0));
  driver.core().Step(absl::Now);
  const int64_t at_first = driver.core().stats().pages_used;
  EXPECT_GT(at_first, 0);
  EXPECT_LT(at_first, 8);
  while (sink->answers[0].tokens.size() < 480) ASSERT_TRUE(driver.core().Step(absl::Now));
  EXPECT_GT(driver.core().stats().pages_used, 28);
  driver.RunAll();
  EXPECT_EQ(driver.Held(), 0);
}

TEST(Pages, WhoNamedItsLengthIsNeverPreempted) {
  EngineDriver driver("llama_tied", "", OneContext());
  auto endless = driver.Send(driver.Plain(20, 0));
  auto named = driver.Send(driver.Plain(20, 300, 1));
  size_t had = 0;
  while (named->answers[0].finishes == 0) {
    ASSERT_TRUE(driver.core().Step(absl::Now));
    const size_t has = named->answers[0].tokens.size();
    EXPECT_TRUE(has == 0 || has > had) << "was made to wait";
    had = has;
  }
  EXPECT_EQ(driver.core().stats().preemptions, 1);  // the endless one
  driver.RunAll();
  EXPECT_EQ(endless->answers[0].tokens.size(), 492u);
  EXPECT_EQ(driver.Held(), 0);
}

TEST(Pages, HigherPriorityKeepsThem) {
  EngineDriver driver("llama_tied", "", OneContext());
  auto low = driver.Send(driver.Plain(20, 0));
  Request urgent = driver.Plain(20, 0, 1);
  urgent.priority = 1;
  auto high = driver.Send(urgent);
  while (high->answers[0].finishes == 0) ASSERT_TRUE(driver.core().Step(absl::Now));
  EXPECT_EQ(low->answers[0].finishes, 0);
  EXPECT_EQ(driver.core().stats().preemptions, 1);
  driver.RunAll();
  EXPECT_EQ(low->answers[0].tokens.size(), 492u);
}

TEST(Pages, Invariant5APreemptedRequestEndsLikeAnyOther) {
  EngineDriver driver("llama_tied", "", OneContext());
  auto first = driver.Send(driver.Plain(20, 0));
  auto second = driver.Send(driver.Plain(20, 0, 1));
  const RequestId id = driver.last_id();
  while (driver.core().stats().preemptions == 0) ASSERT_TRUE(driver.core().Step(absl::Now));
  EXPECT_EQ(driver.core().stats().waiting, 1);
  const size_t had = second->answers[0].tokens.size();
  EXPECT_GT(had, 0u);
  driver.core().Cancel(id);
  driver.core().Step(absl::Now);
  EXPECT_EQ(second->answers[0].finish, FinishReason::kCancelled);
  EXPECT_EQ(second->answers[0].finishes, 1);
  EXPECT_EQ(second->answers[0].stats->completion_tokens, static_cast<int64_t>(had));
  EXPECT_EQ(driver.core().stats().waiting, 0);
  driver.RunAll();
  EXPECT_EQ(first->answers[0].finishes, 1);
  EXPECT_EQ(driver.Held(), 0);
}

TEST(Pages, APausedRequestDoesNotBlockOthers) {
  EngineDriver driver("llama_tied", "", OneContext());
  auto slow = driver.Send(driver.Plain(20, 0));
  slow->pause_after_each = true;
  const RequestId id = driver.last_id();
  auto quick = driver.Send(driver.Plain(20, 0, 1));
  driver.RunAll();
  // The older one keeps its pages while it is paused; the younger waits for it, and for no other.
  EXPECT_EQ(quick->answers[0].finishes + slow->answers[0].finishes, 0);
  slow->pause_after_each = false;
  driver.core().Resume(id);
  driver.RunAll();
  EXPECT_EQ(quick->answers[0].finishes, 1);
  EXPECT_EQ(slow->answers[0].finishes, 1);
  EXPECT_EQ(driver.Held(), 0);
}

TEST(Pages, WhatNeverFitsIsRefused) {
  EngineDriver driver("llama_tied", "", OneContext());
  Request request = driver.Plain(300, 0);
  EXPECT_TRUE(driver.core().Validate(request).ok());
  request.output.samples = 2;  // 256 tokens each
  EXPECT_THAT(std::string(driver.core().Validate(request).message()),
              HasSubstr("output.n: 2 samples of up to 301 tokens given, allowed 512 tokens"));
  request.prompt.resize(240);
  EXPECT_TRUE(driver.core().Validate(request).ok());
  request.stopping.max_tokens = 100;  // 14 pages in common, and 8 each
  EXPECT_TRUE(driver.core().Validate(request).ok());
  request.stopping.max_tokens = 130;  // and 10 each
  EXPECT_FALSE(driver.core().Validate(request).ok());
}

// ---- samples that have the prompt's pages in common

class Samples : public ::testing::TestWithParam<std::tuple<const char*, int>> {
 protected:
  static constexpr int kSamples = 4, kAnswer = 21;

  Request Make(int samples) const {
    Request request = driver_.Plain(std::get<1>(GetParam()), kAnswer);
    request.output.samples = samples;
    request.output.logprobs = 2;
    return request;
  }
  // Log-probabilities of the tokens of an answer, read as a prompt.
  std::vector<TokenLogprob> Scores(const std::vector<TokenId>& answer) {
    Request score = Make(1);
    score.prompt.insert(score.prompt.end(), answer.begin(), answer.end());
    score.score_from = std::get<1>(GetParam());
    score.output.logprobs = -1;
    return driver_.Run(score).prompt_logprobs;
  }
  EngineDriver driver_{std::get<0>(GetParam()), "", OneContext()};
};

// Forks at page borders and inside pages, greedy and far apart, drafted for and not: each sample is
// bit for bit what its text is without a fork.
TEST_P(Samples, Invariant3AreWhatTheirTextsAreAlone) {
  const Answer alone = driver_.Run(Make(1));
  const auto greedy = driver_.Send(Make(kSamples));
  driver_.RunAll();
  for (int i = 0; i < kSamples; ++i) ExpectSame(greedy->answers[i], alone);
  for (const SpeculationMode mode : {SpeculationMode::kOff, SpeculationMode::kPromptLookup}) {
    Request request = Make(kSamples);
    request.sampling.temperature = 20;
    request.sampling.seed = 11;
    request.speculation.mode = mode;
    if (mode == SpeculationMode::kPromptLookup) request.speculation.draft_length = 5;
    const auto sampled = driver_.Send(request);
    driver_.RunAll();
    for (int i = 0; i < kSamples; ++i) {
      SCOPED_TRACE(i);
      const Answer& answer = sampled->answers[i];
      ASSERT_EQ(answer.tokens.size(), size_t{kAnswer});
      const std::vector<TokenLogprob> scores = Scores(answer.tokens);
      ASSERT_EQ(scores.size(), size_t{kAnswer});
      for (int t = 0; t < kAnswer; ++t)
        EXPECT_EQ(answer.logprobs[t].logprob, scores[t].logprob) << t;
      EXPECT_TRUE(i == 0 || answer.tokens != sampled->answers[0].tokens);
    }
  }
  EXPECT_EQ(driver_.Held(), 0);
}

TEST_P(Samples, TakeThePagesOfThePromptOnce) {
  const int prompt = std::get<1>(GetParam());
  const auto pages = [](int tokens) {
    return (tokens + kernels::kPageTokens - 1) / kernels::kPageTokens;
  };
  const int shared = (prompt - 1) / kernels::kPageTokens;
  const int expected = shared + kSamples * (pages(prompt + kAnswer) - shared);
  const auto sink = driver_.Send(Make(kSamples));
  int steps = 0;
  for (; driver_.core().Step(absl::Now) && sink->answers[0].finishes == 0; ++steps)
    ASSERT_EQ(driver_.core().stats().pages_used, expected) << "step " << steps;
  EXPECT_GT(steps, kAnswer / 2);
  EXPECT_EQ(driver_.Held(), 0);
}

// Samples of one request end one after another, at stop ids, and others take what they gave back.
TEST_P(Samples, Invariant5EndInAnyOrder) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Request request = Make(kSamples);
    request.sampling.temperature = 5;
    request.sampling.seed = seed;
    for (TokenId id = 0; id < 8; ++id) request.stopping.stop_token_ids.push_back(id);
    const auto sink = driver_.Send(request);
    const auto other = driver_.Send(driver_.Plain(30 + 16 * static_cast<int>(seed), 40, seed));
    driver_.RunAll();
    for (int i = 0; i < kSamples; ++i) {
      const Answer& answer = sink->answers[i];
      EXPECT_EQ(answer.finishes, 1);
      const std::vector<TokenLogprob> scores = Scores(answer.tokens);
      for (size_t t = 0; t < answer.tokens.size(); ++t)
        EXPECT_EQ(answer.logprobs[t].logprob, scores[t].logprob) << t;
    }
    EXPECT_EQ(other->answers[0].tokens.size(), 40u);
    EXPECT_EQ(driver_.Held(), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Borders, Samples,
                         ::testing::Combine(::testing::Values("llama_tied", "mistral_window",
                                                              "hybrid_mamba", "hybrid_mamba2"),
                                            ::testing::Values(1, 2, 16, 17, 18, 33, 40, 65)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

// 2 x 22 pages of 32: the samples fit because 14 of them are the same.
TEST(Pages, SamplesOfALongPromptFitTogether) {
  EngineDriver driver("hybrid_mamba", "", OneContext());
  Request request = driver.Plain(240, 100);
  const Answer alone = driver.Run(request);
  request.output.samples = 2;
  const auto both = driver.Send(request);
  const auto later = driver.Send(driver.Plain(20, 30, 1));
  driver.RunAll();
  for (int i : {0, 1}) ExpectSame(both->answers[i], alone);
  EXPECT_EQ(later->answers[0].finishes, 1);
  EXPECT_EQ(driver.core().stats().preemptions, 0);
  EXPECT_EQ(driver.Held(), 0);
}

// Samples that wait for their fork give back only what they took.
TEST(Pages, Invariant5SamplesEndBeforeTheirFork) {
  EngineOptions options = OneContext();
  options.max_step_rows = 16;
  EngineDriver driver("hybrid_mamba", "", options);
  Request request = driver.Plain(100, 20);
  request.output.samples = 4;
  const auto sink = driver.Send(request);
  driver.core().Step(absl::Now);
  EXPECT_EQ(driver.core().stats().pages_used, 6 + 4 * 2);
  driver.core().Cancel(driver.last_id());
  driver.RunAll();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(sink->answers[i].finish, FinishReason::kCancelled);
  EXPECT_EQ(driver.Held(), 0);
}

TEST(Pages, TablesOfExtremeContextsAreRefused) {
  TemporaryDirectory directory;
  MakeFormulaModel("hybrid_mamba").directory.Write(directory.path(), StoredAs::kFloat32);
  // The formula models name 512.
  const std::string path = directory.path() + "/config.json";
  std::stringstream config;
  config << std::ifstream(path).rdbuf();
  std::string text = config.str();
  const size_t at = text.find("512", text.find("\"max_position_embeddings\""));
  ASSERT_NE(at, std::string::npos);
  std::ofstream(path) << text.replace(at, 3, "16777216");
  EngineOptions options;
  options.model = directory.path();
  options.max_sequences = 4096;
  options.max_step_rows = 8192;
  options.max_context = 1 << 24;
  const absl::Status status = EngineCore::Open(options, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("max_context: 16777216 given"));
}

}  // namespace
}  // namespace mambad::testing
