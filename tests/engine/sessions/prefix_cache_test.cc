// Prompts that begin alike: what one has read another goes on from, with the same bits.

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"

namespace mambad::testing {
namespace {

EngineOptions WithCache(int64_t bytes) {
  EngineOptions options;
  options.max_sequences = 3;
  options.kv_cache_tokens = 4096;
  options.prefix_cache_bytes = bytes;
  return options;
}

struct Models {
  const char *target, *draft;
};

class Prefixes : public ::testing::TestWithParam<Models> {
 protected:
  Prefixes()
      : driver_(GetParam().target, GetParam().draft, WithCache(1 << 26)),
        other_(GetParam().target, GetParam().draft, WithCache(0)) {}

  // The request's answer is the same with and without, and so much of it was at hand.
  void ExpectSame(const Request& request, int64_t cached) {
    SCOPED_TRACE(request.prompt.size());
    const Answer with = driver_.Run(request), without = other_.Run(request);
    EXPECT_EQ(with.tokens, without.tokens);
    ASSERT_EQ(with.logprobs.size(), without.logprobs.size());
    for (size_t i = 0; i < with.logprobs.size(); ++i)
      ASSERT_EQ(with.logprobs[i].logprob, without.logprobs[i].logprob) << i;
    EXPECT_EQ(with.stats->cached_tokens, cached);
    EXPECT_EQ(without.stats->cached_tokens, 0);
  }

  EngineDriver driver_, other_;
};

// `shared` tokens of one text, then `own` of another.
Request Prompt(const EngineDriver& driver, int shared, int own, uint64_t seed) {
  Request request = driver.Plain(shared, 12);
  const std::vector<TokenId> rest = FormulaTokens(own, driver.vocabulary(), seed);
  request.prompt.insert(request.prompt.end(), rest.begin(), rest.end());
  request.sampling.temperature = 0.8f;
  request.sampling.seed = seed;
  request.output.logprobs = 1;
  request.principal = "ann";
  request.speculation.mode = SpeculationMode::kAuto;
  return request;
}

TEST_P(Prefixes, Invariant3WhatWasReadForAnotherGivesTheSameBits) {
  ExpectSame(Prompt(driver_, 300, 150, 1), 0);  // keeps its last border, 256
  ExpectSame(Prompt(driver_, 300, 150, 1), 256);
  ExpectSame(Prompt(driver_, 300, 100, 2), 256);
  ExpectSame(Prompt(driver_, 200, 200, 3), 0);  // parts before
  ExpectSame(Prompt(driver_, 256, 0, 4), 0);    // its last token is read for its logits
  ExpectSame(Prompt(driver_, 257, 0, 4), 256);
  Request request = Prompt(driver_, 300, 150, 1);
  request.principal = "ben";
  ExpectSame(request, 0);
  request = Prompt(driver_, 300, 150, 1);
  request.prefix_cache = false;
  ExpectSame(request, 0);
  request = Prompt(driver_, 300, 150, 1);
  request.output.samples = 3;
  const auto sink = driver_.Send(request), alone = other_.Send(request);
  driver_.RunAll();
  other_.RunAll();
  for (int sample = 0; sample < 3; ++sample) {
    EXPECT_EQ(sink->answers[sample].tokens, alone->answers[sample].tokens);
    EXPECT_EQ(sink->answers[sample].stats->cached_tokens, 256);
  }
  EXPECT_EQ(driver_.Held(), 0);
}

// What another has read is read again, all of it: that it was there shows neither in what is told
// nor in how long it takes.
TEST_P(Prefixes, ASecondPrincipalCannotTimeWhatAnotherHasRead) {
  Request anns = Prompt(driver_, 300, 100, 1), bens = anns;
  bens.principal = "ben";
  driver_.Run(anns);
  const auto rows = [&](const Request& request) {
    const int64_t before = driver_.core().stats().prompt_tokens;
    driver_.Run(request);
    return driver_.core().stats().prompt_tokens - before;
  };
  EXPECT_EQ(rows(bens), 400);
  EXPECT_LT(rows(bens), 400);  // his own
  EXPECT_LT(rows(anns), 400);
}

INSTANTIATE_TEST_SUITE_P(Formula, Prefixes,
                         ::testing::Values(Models{"mamba", ""}, Models{"mamba2", "mamba"},
                                           Models{"hybrid_mamba", "mamba2"},
                                           Models{"llama_tied", ""}),
                         [](const auto& info) { return std::string(info.param.target); });

class LongPrefixes : public Prefixes {};

// Where prompts part a state is kept, once two have come past.
TEST_P(LongPrefixes, StatesLieWherePromptsPart) {
  ExpectSame(Prompt(driver_, 600, 200, 1), 0);    // keeps its last border, 768
  ExpectSame(Prompt(driver_, 600, 200, 1), 768);  // the same again
  ExpectSame(Prompt(driver_, 600, 500, 2), 0);    // parts at 600: keeps 512 and 1024
  ExpectSame(Prompt(driver_, 600, 300, 3), 512);  // and goes on from there
  ExpectSame(Prompt(driver_, 600, 500, 2), 1024);
}

INSTANTIATE_TEST_SUITE_P(Formula, LongPrefixes,
                         ::testing::Values(Models{"mamba_state_spaces", ""},
                                           Models{"mamba2_state_spaces", "mamba_state_spaces"}),
                         [](const auto& info) { return std::string(info.param.target); });

// What was used last stays.
TEST(PrefixCache, DropsWhatWasNotUsedForLongest) {
  EngineDriver probe("mamba", "", WithCache(1 << 26));
  const int64_t state = probe.core().facts().session_format->target.Bytes(256, 0);
  EngineDriver driver("mamba", "", WithCache(2 * state));
  const auto cached = [&](uint64_t text) {
    return driver.Run(Prompt(driver, 0, 300, text)).stats->cached_tokens;
  };
  EXPECT_EQ(cached(1), 0);
  EXPECT_EQ(cached(2), 0);
  EXPECT_EQ(cached(1), 256);
  EXPECT_EQ(cached(3), 0);  // in the place of 2
  EXPECT_EQ(cached(1), 256);
  EXPECT_EQ(cached(3), 256);
  EXPECT_EQ(cached(2), 0);
}

// A hit is a use of the one state that is gone on from: what lies before it on the way is the first
// to go.
TEST(PrefixCache, AHitRefreshesOnlyTheStateUsed) {
  EngineDriver probe("mamba_state_spaces", "", WithCache(1 << 26));
  const int64_t state = probe.core().facts().session_format->target.Bytes(256, 0);
  EngineDriver driver("mamba_state_spaces", "", WithCache(3 * state));
  const auto cached = [&](int shared, int own, uint64_t text) {
    return driver.Run(Prompt(driver, shared, own, text)).stats->cached_tokens;
  };
  EXPECT_EQ(cached(300, 300, 1), 0);  // keeps 512
  EXPECT_EQ(cached(300, 300, 2), 0);  // parts: keeps 256, and its own 512
  EXPECT_EQ(cached(300, 300, 1), 512);
  EXPECT_EQ(cached(300, 300, 2), 512);
  EXPECT_EQ(cached(0, 300, 3), 0);  // in the place of 256, which was used by none of these
  EXPECT_EQ(cached(300, 300, 1), 512);
  EXPECT_EQ(cached(300, 300, 2), 512);
  EXPECT_EQ(driver.core().stats().sessions.prefix_hits, 4);
  EXPECT_EQ(driver.core().stats().sessions.prefix_lookups, 7);
  EXPECT_EQ(driver.core().stats().sessions.prefix_tokens, 4 * 512);
  EXPECT_EQ(driver.core().stats().sessions.prefix_bytes, 3 * state);
}

}  // namespace
}  // namespace mambad::testing
