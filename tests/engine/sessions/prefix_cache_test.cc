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
  options.max_context = 1400;
  options.kv_cache_tokens = 3 * 1400;
  options.prefix_cache_bytes = bytes;
  return options;
}

class Prefixes : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

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
  EngineDriver driver(GetParam().first, GetParam().second, WithCache(1 << 26));
  EngineDriver other(GetParam().first, GetParam().second, WithCache(0));
  const auto same = [&](const Request& request, int64_t cached) {
    const Answer with = driver.Run(request), without = other.Run(request);
    EXPECT_EQ(with.tokens, without.tokens);
    for (size_t i = 0; i < with.logprobs.size(); ++i)
      ASSERT_EQ(with.logprobs[i].logprob, without.logprobs[i].logprob) << i;
    EXPECT_EQ(with.stats->cached_tokens, cached);
    EXPECT_EQ(without.stats->cached_tokens, 0);
  };
  same(Prompt(driver, 600, 200, 1), 0);    // keeps its last border, 768
  same(Prompt(driver, 600, 200, 1), 768);  // the same again
  same(Prompt(driver, 600, 500, 2), 0);    // parts at 600: keeps 512 and 1024
  same(Prompt(driver, 600, 300, 3), 512);  // and goes on from there
  same(Prompt(driver, 600, 500, 2), 1024);
  same(Prompt(driver, 512, 0, 4), 0);  // its last token is read for its logits
  same(Prompt(driver, 513, 0, 4), 512);
  Request request = Prompt(driver, 600, 200, 1);
  request.principal = "ben";
  same(request, 0);
  request = Prompt(driver, 600, 200, 1);
  request.prefix_cache = false;
  same(request, 0);
  request = Prompt(driver, 600, 200, 1);
  request.output.samples = 3;
  const auto sink = driver.Send(request), alone = other.Send(request);
  driver.RunAll();
  other.RunAll();
  for (int sample = 0; sample < 3; ++sample) {
    EXPECT_EQ(sink->answers[sample].tokens, alone->answers[sample].tokens);
    EXPECT_EQ(sink->answers[sample].stats->cached_tokens, 768);
  }
  EXPECT_EQ(driver.Held(), 0);
}

INSTANTIATE_TEST_SUITE_P(Formula, Prefixes,
                         ::testing::Values(std::pair{"mamba", ""}, std::pair{"mamba2", "mamba"},
                                           std::pair{"hybrid_mamba", "mamba2"},
                                           std::pair{"llama_tied", ""}),
                         [](const auto& info) { return std::string(info.param.first); });

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

}  // namespace
}  // namespace mambad::testing
