// Models of odd sizes that the files' checks accept: whatever is accepted is served, plainly and
// with speculation, with the same tokens and log-probabilities; whatever is refused is refused with
// words. Nothing ends the process.
//
// A number gives a model. ctest runs a fixed few; more by hand:
//   MAMBAD_ODD_MODELS=FIRST:COUNT build/bin/odd_models_test

#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/self_check.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checked_calls.h"
#include "tests/engine/engine_driver.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/model_directory.h"

namespace mambad::testing {
namespace {

using checkpoint::Family;
using checkpoint::Layout;
using checkpoint::MixerKind;
using checkpoint::RopeScalingKind;
using support::RandomModelOptions;

class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {
    for (int i = 0; i < 4; ++i) Next();
  }
  int Below(int sides) { return static_cast<int>(Next() % sides); }
  bool OneIn(int sides) { return Below(sides) == 0; }
  int Of(std::vector<int> choices) { return choices[Below(static_cast<int>(choices.size()))]; }
  template <typename T>
  T Among(std::vector<T> choices) {
    return choices[Below(static_cast<int>(choices.size()))];
  }

 private:
  uint64_t Next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (state_ ^ (state_ >> 29)) * 0xbf58476d1ce4e5b9u >> 33;
  }
  uint64_t state_;
};

void DrawAttention(Dice& dice, RandomModelOptions& o) {
  o.key_value_heads = dice.Of({1, 1, 2, 3, 5});
  o.query_heads = o.key_value_heads * dice.Of({1, 1, 2, 3, 7, 17});
  if (dice.OneIn(40)) o.query_heads = 70 * o.key_value_heads;
  o.head_width = dice.Of({2, 4, 6, 8, 10, 16, 18, 34, 64, 130, 256});
  if (dice.OneIn(20)) o.head_width = dice.Of({1, 3, 258});
  o.sliding_window = dice.OneIn(3) ? dice.Of({1, 2, 3, 15, 16, 17, 33, 1 << 30}) : 0;
  o.model_type = dice.Among<std::string>({"", "", "qwen2", "qwen3"});
  o.first_windowed = dice.Below(4);
  o.attention_bias = dice.OneIn(3) && o.model_type != "qwen2" &&
                     (o.sliding_window == 0 || o.model_type == "qwen3");
  o.mlp_bias = dice.OneIn(3) && o.model_type.empty() && o.sliding_window == 0;
  o.rope_theta = dice.Among<double>({1, 1.5, 10000, 5e5, 1e12});
  o.rope_scaling = dice.Among<RopeScalingKind>({RopeScalingKind::kNone, RopeScalingKind::kLinear,
                                                RopeScalingKind::kLlama3, RopeScalingKind::kDynamic,
                                                RopeScalingKind::kYarn});
  o.rope_factor = dice.Among<double>({1, 1.5, 8, 1e6});
  o.rope_original_context = dice.Of({1, 7, 64, 8192});
  o.new_spelling = dice.OneIn(2);
}

void DrawMambas(Dice& dice, RandomModelOptions& o) {
  o.state_size = dice.Of({1, 2, 3, 5, 7, 8, 15, 16, 17, 24, 33, 64, 100, 128, 255, 256});
  if (dice.OneIn(20)) o.state_size = dice.Of({257, 300, 1024});
  o.dt_rank = dice.Of({0, 1, 2, 3, 7, 15, 16, 17, 33, 100, 601, 2000, 5000});
  o.convolution_width = dice.Of({1, 2, 3, 4, 5, 6, 7, 8});
  if (dice.OneIn(30)) o.convolution_width = 9;
  o.convolution_bias = !dice.OneIn(3);
  o.projection_bias = dice.OneIn(4);
  o.falcon = dice.OneIn(3);
  o.mamba2_head_width = dice.Of({1, 2, 3, 4, 5, 8, 16, 20, 33, 64});
  o.inner_width = o.mamba2_head_width * dice.Of({1, 2, 3, 4, 6, 8, 12, 17});
  o.groups = dice.Of({1, 1, 1, 2, 3, 4});
  if (o.family == Family::kMamba) o.inner_width = o.width * dice.Of({1, 2, 3});
  if (o.family == Family::kMamba2) o.width = std::max(1, o.inner_width / dice.Of({1, 2, 3}));
  if (dice.OneIn(3))
    o.dt_limit =
        dice.Among<std::pair<double, double>>({{0, 0}, {0, HUGE_VAL}, {1e-3, 0.1}, {5, 7}});
}

void DrawHybrid(Dice& dice, RandomModelOptions& o) {
  o.layout = Layout::kMambaInLlama;
  o.hybrid_mixer = dice.OneIn(2) ? MixerKind::kMamba : MixerKind::kMamba2;
  o.state_size = dice.Of({1, 2, 3, 4, 8, 16, 20, 33, 64});
  o.source_width = o.state_size * dice.Of({1, 1, 2, 3});
  o.inner_width = o.source_width * dice.Of({1, 1, 2, 3, 5});
  o.attention_layers.clear();
  for (int layer = 0; layer < o.layers; ++layer) {
    if (dice.OneIn(2)) o.attention_layers.push_back(layer);
  }
  o.fused_attention = dice.OneIn(3);
  o.fused_mamba = dice.OneIn(3);
  o.repeat_before_convolution = dice.OneIn(2);
  o.dt_bias_applied_once = dice.OneIn(2);
}

RandomModelOptions Draw(Dice& dice, int vocabulary, int pad_multiple) {
  RandomModelOptions o;
  o.family = dice.Among<Family>(
      {Family::kLlama, Family::kLlama, Family::kMamba, Family::kMamba2, Family::kHybrid});
  o.layout = dice.OneIn(2) ? Layout::kHuggingFace : Layout::kStateSpaces;
  if (o.family == Family::kLlama) o.layout = Layout::kHuggingFace;
  o.seed = 1 + dice.Below(1000);
  o.width = dice.Of({1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 48, 64, 100, 129});
  o.layers = dice.Of({1, 1, 2, 3});
  o.vocabulary = vocabulary;
  o.pad_vocabulary_multiple = pad_multiple;
  o.mlp_width = dice.Of({1, 2, 3, 7, 16, 17, 96, 200, 1030});
  o.tied_head = dice.OneIn(2);
  o.store_tied_head = dice.OneIn(2);
  o.norm_epsilon = dice.Among<double>({1e-5, 1e-6, 1e-3, 1});
  o.context_length = dice.Of({1, 7, 8, 9, 10, 40, 64, 4096});
  o.shards = dice.Of({1, 1, 2, 5});
  o.type = dice.Among<checkpoint::StorageType>({checkpoint::StorageType::kFloat32,
                                                checkpoint::StorageType::kFloat16,
                                                checkpoint::StorageType::kBFloat16});
  DrawAttention(dice, o);
  DrawMambas(dice, o);
  if (o.family == Family::kHybrid) DrawHybrid(dice, o);
  o.eos_ids = {dice.Below(vocabulary)};
  return o;
}

// Tokens and the bits of their log-probabilities.
Answer Run(EngineCore& core, Request request) {
  auto sink = std::make_shared<CollectingSink>();
  const absl::Status valid = core.Validate(request);
  EXPECT_TRUE(valid.ok()) << valid;
  const absl::Status admitted = core.Admit(1, std::move(request), sink, absl::Now());
  EXPECT_TRUE(admitted.ok()) << admitted;
  while (core.Step(absl::Now)) {
  }
  EXPECT_EQ(sink->answers[0].finishes, 1);
  return sink->answers[0];
}

void ExpectServed(EngineCore& core, Dice& dice) {
  const int64_t context = core.facts().model.context;
  Request request;
  const int prompt = static_cast<int>(std::min<int64_t>(context, dice.Of({1, 2, 5, 16, 37})));
  request.prompt = FormulaTokens(prompt, core.facts().model.vocabulary, dice.Below(100));
  request.stopping.max_tokens = std::min<int64_t>(18, context - prompt);
  if (request.stopping.max_tokens == 0) {  // the whole context is read: score it
    if (prompt < 2) return;
    request.score_from = 1;
  }
  request.stopping.ignore_eos = true;
  request.output.logprobs = request.score_from ? -1 : 0;
  request.sampling.temperature = dice.OneIn(2) ? 0.0f : 0.8f;
  request.speculation.mode = SpeculationMode::kOff;
  const Answer plain = Run(core, request);
  EXPECT_EQ(static_cast<int64_t>(plain.tokens.size()), request.stopping.max_tokens);
  for (const SpeculationMode mode :
       {SpeculationMode::kPromptLookup, SpeculationMode::kDraftModel}) {
    if (mode == SpeculationMode::kDraftModel && !core.facts().draft_model.has_value()) continue;
    request.speculation.mode = mode;
    request.speculation.draft_length = 1 + dice.Below(core.facts().options.max_draft_length);
    const Answer answer = Run(core, request);
    if (mode == SpeculationMode::kDraftModel && request.sampling.temperature > 0) continue;
    EXPECT_EQ(answer.tokens, plain.tokens);
    ASSERT_EQ(answer.logprobs.size(), plain.logprobs.size());
    for (size_t i = 0; i < answer.logprobs.size(); ++i) {
      EXPECT_EQ(answer.logprobs[i].logprob, plain.logprobs[i].logprob) << "token " << i;
    }
  }
}

enum class Outcome { kServed, kRefused };

Outcome Try(uint64_t number) {
  Dice dice(number);
  const int vocabulary = dice.Of({1, 2, 3, 5, 16, 31, 50, 101, 1000});
  const int multiple = dice.Of({1, 2, 7, 8, 16});
  TemporaryDirectory folder;
  const std::string target = folder.path() + "/target", draft = folder.path() + "/draft";
  EXPECT_TRUE(support::SaveRandomCheckpoint(target, Draw(dice, vocabulary, multiple)).ok());
  EngineOptions options;
  options.model = target;
  options.threads = dice.Of({1, 2});
  options.max_sequences = dice.Of({1, 3});
  options.max_step_rows = dice.Of({2 * options.max_sequences, 64});
  options.max_draft_length = dice.Of({1, 4, kMaxDraftLength});
  options.weight_type =
      dice.Among<ComputeType>({ComputeType::kAuto, ComputeType::kFloat32, ComputeType::kBFloat16});
  options.activations = dice.OneIn(4) ? ComputeType::kAuto : ComputeType::kFloat32;
  options.kv_cache_tokens = 4096;  // whatever context a file claims
  if (dice.OneIn(2)) {
    EXPECT_TRUE(support::SaveRandomCheckpoint(draft, Draw(dice, vocabulary, multiple)).ok());
    options.draft_model = draft;
  }
  absl::StatusOr<std::unique_ptr<EngineCore>> core = EngineCore::Open(Checked(options), nullptr);
  if (!core.ok()) {
    const absl::StatusCode code = core.status().code();
    EXPECT_TRUE(code == absl::StatusCode::kInvalidArgument ||
                code == absl::StatusCode::kUnimplemented)
        << core.status();
    const std::string message(core.status().message());
    EXPECT_THAT(message, ::testing::HasSubstr(folder.path()));
    EXPECT_THAT(message, ::testing::ContainsRegex("expected|implemented|allowed|must"));
    return Outcome::kRefused;
  }
  const absl::Status checked = SelfCheck(**core);
  EXPECT_TRUE(checked.ok()) << checked << "; context " << (*core)->facts().model.context
                            << ", vocabulary " << vocabulary;
  ExpectServed(**core, dice);
  return Outcome::kServed;
}

TEST(OddModels, AreServedOrRefusedInWords) {
  uint64_t first = 1;
  int count = 150;
  if (const char* given = std::getenv("MAMBAD_ODD_MODELS"); given != nullptr) {
    const std::vector<std::string> parts = absl::StrSplit(given, ':');
    ASSERT_EQ(parts.size(), 2u);
    ASSERT_TRUE(absl::SimpleAtoi(parts[0], &first) && absl::SimpleAtoi(parts[1], &count));
  }
  int served = 0;
  for (uint64_t number = first; number < first + count; ++number) {
    SCOPED_TRACE(absl::StrCat("model number ", number));
    if (Try(number) == Outcome::kServed) ++served;
  }
  std::printf("%d of %d models served\n", served, count);
  EXPECT_GE(served, count / 2);
}

// From about this size on, scratch sized by the other widths was too small.
TEST(OddModels, ALargeTimeStepRankIsServed) {
  RandomModelOptions model;
  model.family = Family::kMamba;
  model.width = 8;
  model.dt_rank = 2000;
  model.vocabulary = 50;
  TemporaryDirectory folder;
  ASSERT_TRUE(support::SaveRandomCheckpoint(folder.path(), model).ok());
  EngineOptions options;
  options.model = folder.path();
  options.threads = 1;
  auto core = EngineCore::Open(Checked(options), nullptr);
  ASSERT_TRUE(core.ok()) << core.status();
  Dice dice(1);
  ExpectServed(**core, dice);
}

}  // namespace
}  // namespace mambad::testing
