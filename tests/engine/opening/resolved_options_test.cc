// Options against themselves and against what models say of themselves: what is refused, what is
// chosen.

#include "engine/opening/resolved_options.h"

#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"

namespace mambad::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

checkpoint::ModelConfig Model(checkpoint::MixerKind mixer, int64_t context) {
  checkpoint::ModelConfig config;
  config.layers = 1;
  config.mixers = {mixer};
  config.vocabulary = 1000;
  config.padded_vocabulary = 1024;
  config.context_length = context;
  return config;
}

TEST(ResolvedOptions, RangesHoldAtBothEnds) {
  const auto message = [](void (*change)(EngineOptions&)) {
    EngineOptions options;
    change(options);
    return std::string(CheckRanges(options).message());
  };
  EXPECT_EQ(message([](EngineOptions&) {}), "");
  EXPECT_EQ(message([](EngineOptions& o) { o.max_sequences = -1; }),
            "batching.max_sequences: -1 given, allowed 0 to 4096");
  EXPECT_EQ(message([](EngineOptions& o) { o.memory_fraction = 1; }), "");
  EXPECT_EQ(message([](EngineOptions& o) { o.memory_fraction = 1.25; }),
            "batching.memory_fraction: 1.25 given, allowed 0 to 1");
  EXPECT_THAT(message([](EngineOptions& o) { o.memory_fraction = std::nan(""); }),
              HasSubstr("batching.memory_fraction: nan given"));
  EXPECT_EQ(message([](EngineOptions& o) { o.max_sequences = 4096; }), "");
  EXPECT_THAT(message([](EngineOptions& o) { o.max_sequences = 4097; }), HasSubstr("4097 given"));
  EXPECT_EQ(message([](EngineOptions& o) { o.max_context = 1 << 24; }), "");
  EXPECT_THAT(message([](EngineOptions& o) { o.max_context = (1 << 24) + 1; }),
              HasSubstr("batching.max_context: "));
  EXPECT_THAT(message([](EngineOptions& o) { o.max_draft_length = kMaxDraftLength + 1; }),
              HasSubstr("speculation.max_draft_length: "));
  EXPECT_EQ(message([](EngineOptions& o) { o.max_step_rows = 2 * (o.max_sequences = 5); }), "");
  EXPECT_THAT(message([](EngineOptions& o) { o.max_step_rows = 2 * (o.max_sequences = 5) - 1; }),
              HasSubstr("is too few for batching.max_sequences"));
}

TEST(ResolvedOptions, WhatIsLeftOpenIsChosen) {
  EngineOptions options;
  options.max_sequences = 200;
  std::vector<std::string> warnings;
  const auto model = Model(checkpoint::MixerKind::kMamba, 0);
  ASSERT_TRUE(ResolveOptions(model, nullptr, &options, &warnings).ok());
  EXPECT_EQ(options.max_step_rows, 400);
  EXPECT_EQ(options.max_penalised, 200) << "128 MB have room for more";
  EXPECT_EQ(options.max_context, 32768);
  EXPECT_EQ(UsualCacheTokens(options), 200 * 2048);
  options.max_sequences = 3;
  EXPECT_EQ(UsualCacheTokens(options), 32768) << "one whole context at least";
  EXPECT_THAT(warnings, IsEmpty());
}

TEST(ResolvedOptions, PenaltiesTakeABoundedPartOfMemoryUnlessTheyAreNamed) {
  EngineOptions options;
  options.max_sequences = 100;
  std::vector<std::string> warnings;
  auto model = Model(checkpoint::MixerKind::kMamba, 0);
  model.padded_vocabulary = 1 << 18;
  ASSERT_TRUE(ResolveOptions(model, nullptr, &options, &warnings).ok());
  EXPECT_EQ(options.max_penalised, 64);
  options.max_penalised = 4096;
  ASSERT_TRUE(ResolveOptions(model, nullptr, &options, &warnings).ok());
  EXPECT_EQ(options.max_penalised, 100) << "no more than run";
}

TEST(ResolvedOptions, AContextIsTheModelsUnlessItIsNamedOrPageTablesAreTooShort) {
  EngineOptions options;
  options.max_sequences = 16;
  std::vector<std::string> warnings;
  const auto model = Model(checkpoint::MixerKind::kAttention, 4096);
  ASSERT_TRUE(ResolveOptions(model, nullptr, &options, &warnings).ok());
  EXPECT_EQ(options.max_context, 4096);
  options.max_context = 100;
  ASSERT_TRUE(ResolveOptions(model, nullptr, &options, &warnings).ok());
  EXPECT_EQ(options.max_context, 100);
  options.max_context = 4097;
  EXPECT_THAT(std::string(ResolveOptions(model, nullptr, &options, &warnings).message()),
              HasSubstr("4097 given, but the model's limit is 4096"));
  EXPECT_THAT(warnings, IsEmpty());

  options.max_context = 0;
  options.max_sequences = 4096;
  const int64_t longest = (int64_t{1} << 28) / 4096 * kernels::kPageTokens;
  const auto claims = Model(checkpoint::MixerKind::kAttention, longest + 1);
  ASSERT_TRUE(ResolveOptions(claims, nullptr, &options, &warnings).ok());
  EXPECT_EQ(options.max_context, longest);
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("its files claim a context of")));
  EXPECT_TRUE(CheckPageTable(options, /*has_attention=*/true).ok());
  ++options.max_context;
  EXPECT_FALSE(CheckPageTable(options, /*has_attention=*/true).ok());
  EXPECT_TRUE(CheckPageTable(options, /*has_attention=*/false).ok());
}

TEST(ResolvedOptions, AContextHasRoomForAPromptAndAnAnswer) {
  EngineOptions options;
  options.model = "tiny";
  options.max_sequences = 16;
  std::vector<std::string> warnings;
  auto model = Model(checkpoint::MixerKind::kAttention, 1);
  EXPECT_EQ(ResolveOptions(model, nullptr, &options, &warnings).message(),
            "tiny: its files claim a context of 1, it must be at least 2: a token of a prompt "
            "and one of an answer");
  model.context_length = 2;
  options.max_context = 0;
  EXPECT_TRUE(ResolveOptions(model, nullptr, &options, &warnings).ok());
  options.max_context = 1;
  EXPECT_EQ(ResolveOptions(model, nullptr, &options, &warnings).message(),
            "batching.max_context: 1 given, it must be at least 2: a token of a prompt and one "
            "of an answer");
}

TEST(ResolvedOptions, ADraftModelHasTheTargetsVocabulary) {
  EngineOptions options;
  options.draft_model = "small";
  options.max_sequences = 16;
  std::vector<std::string> warnings;
  const auto target = Model(checkpoint::MixerKind::kMamba, 0);
  auto draft = target;
  EXPECT_TRUE(ResolveOptions(target, &draft, &options, &warnings).ok());
  draft.padded_vocabulary = 1008;
  EXPECT_EQ(ResolveOptions(target, &draft, &options, &warnings).message(),
            "small: draft model has a vocabulary of 1000 (1008 rows), the target of 1000 (1024 "
            "rows); they must be the same");
}

}  // namespace
}  // namespace mambad::testing
