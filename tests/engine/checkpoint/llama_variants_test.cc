// What Qwen2, Qwen3, biases, dynamic scaling and YaRN say in config.json.

#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/model_config_reader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kBase[] = R"({"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
  "head_dim": 64, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
  "max_position_embeddings": 131072, "vocab_size": 1000, "rope_theta": 500000.0})";

// Of the base with members replaced, or taken away where they are null.
absl::StatusOr<ModelConfig> Read(const std::string& changes) {
  ConfigFiles files;
  files.directory = "dir";
  files.config = *ParseJsonObject("base", kBase);
  const auto changed = ParseJsonObject("changes", changes);
  if (!changed.ok()) return changed.status();
  files.config.merge_patch(*changed);
  return ReadModelConfig(files, {});
}
ModelConfig Good(const std::string& changes = "{}") {
  const auto config = Read(changes);
  EXPECT_TRUE(config.ok()) << config.status() << " " << changes;
  return config.ok() ? *config : ModelConfig();
}
std::string Bad(const std::string& changes) {
  const auto config = Read(changes);
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << changes;
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("dir/"));
  return std::string(config.status().message());
}

TEST(LlamaVariants, Biases) {
  const ModelConfig llama = Good(R"({"attention_bias": true, "mlp_bias": true})");
  EXPECT_TRUE(llama.attention.bias && llama.attention.output_bias && llama.mlp_bias);
  EXPECT_FALSE(llama.attention.head_norm);
  const ModelConfig plain = Good();
  EXPECT_FALSE(plain.attention.bias || plain.attention.output_bias || plain.mlp_bias);
}

TEST(LlamaVariants, Qwen2HasThreeBiasesAndAWindowWhereItIsUsed) {
  const ModelConfig config = Good(R"({"model_type": "qwen2", "sliding_window": 64,
      "use_sliding_window": false, "max_window_layers": 4})");
  EXPECT_TRUE(config.attention.bias);
  EXPECT_FALSE(config.attention.output_bias || config.attention.head_norm || config.mlp_bias);
  EXPECT_EQ(config.attention.sliding_window, 0);
  const ModelConfig windowed = Good(R"({"model_type": "qwen2", "sliding_window": 64,
      "use_sliding_window": true, "max_window_layers": 4})");
  EXPECT_EQ(windowed.SlidingWindow(3), 0);
  EXPECT_EQ(windowed.SlidingWindow(4), 64);
  // Llama's attention knows no window, whatever its file says.
  EXPECT_EQ(Good(R"({"sliding_window": 64, "use_sliding_window": true})").attention.sliding_window,
            0);
  // Whoever is silent means the class's own numbers.
  EXPECT_EQ(Good(R"({"model_type": "qwen2", "max_position_embeddings": null})").context_length,
            32768);
}

TEST(LlamaVariants, Qwen3NormsHeadsThatAre128WideUnlessItSays) {
  const ModelConfig config = Good(R"({"model_type": "qwen3", "head_dim": null})");
  EXPECT_TRUE(config.attention.head_norm);
  EXPECT_FALSE(config.attention.bias || config.attention.output_bias);
  EXPECT_EQ(config.attention.head_width, 128);
  const ModelConfig biased = Good(R"({"model_type": "qwen3", "attention_bias": true})");
  EXPECT_TRUE(biased.attention.bias && biased.attention.output_bias);
  EXPECT_EQ(biased.attention.head_width, 64);
}

TEST(LlamaVariants, LayerTypesNameTheWindowedLayers) {
  const std::string types = R"("full_attention", "sliding_attention")";
  const auto with = [&](const std::string& list) {
    return absl::StrCat(R"({"model_type": "qwen3", "num_hidden_layers": 2, "sliding_window": 9,
        "use_sliding_window": true, "layer_types": )",
                        list, "}");
  };
  const ModelConfig config = Good(with("[" + types + "]"));
  EXPECT_EQ(config.SlidingWindow(0), 0);
  EXPECT_EQ(config.SlidingWindow(1), 9);
  for (const std::string& list :
       {std::string("[\"full_attention\"]"), "[" + types + ", 3]", std::string("[3, 4]"),
        std::string("\"full_attention\""), std::string("[\"full_attention\", \"chunked\"]")}) {
    EXPECT_THAT(Bad(with(list)), HasSubstr("layer_types")) << list;
  }
}

TEST(LlamaVariants, KeyValueHeadsOfASilentFileAreThoseOfItsClass) {
  for (const auto& [type, expected] : {std::pair("llama", 64), std::pair("mistral", 8),
                                       std::pair("qwen2", 32), std::pair("qwen3", 32)}) {
    ConfigFiles files;
    files.directory = "dir";
    files.config = *ParseJsonObject("base", kBase);
    files.config["model_type"] = type;
    files.config["num_attention_heads"] = 64;
    files.config["num_key_value_heads"] = nullptr;  // one for each head, whatever the class
    const auto null = ReadModelConfig(files, {});
    ASSERT_TRUE(null.ok()) << null.status();
    EXPECT_EQ(null->attention.key_value_heads, 64) << type;
    files.config.erase("num_key_value_heads");
    const auto silent = ReadModelConfig(files, {});
    ASSERT_TRUE(silent.ok()) << silent.status();
    EXPECT_EQ(silent->attention.key_value_heads, expected) << type;
  }
}

TEST(LlamaVariants, RefusesRotationsOfTheirOwnForKindsOfLayers) {
  const auto refused = Read(R"({"rope_parameters": {
      "full_attention": {"rope_type": "linear", "factor": 4, "rope_theta": 5e4},
      "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}})");
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnimplemented) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()),
              AllOf(HasSubstr("rope_parameters"), HasSubstr("full_attention")));
}

TEST(LlamaVariants, RefusesRotationsOfAPartOfEachHeadInEitherSpelling) {
  for (const char* changes :
       {R"({"partial_rotary_factor": 0.5})",
        R"({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}})"}) {
    const auto refused = Read(changes);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnimplemented) << changes;
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("partial_rotary_factor"));
  }
}

TEST(LlamaVariants, DynamicScalingReachesFurtherThanItsContext) {
  const ModelConfig config = Good(R"({"rope_scaling": {"type": "dynamic", "factor": 2.5},
      "max_position_embeddings": 1000})");
  EXPECT_EQ(config.attention.rope.scaling, RopeScalingKind::kDynamic);
  EXPECT_EQ(config.attention.rope.factor, 2.5);
  EXPECT_EQ(config.attention.rope.original_context, 1000);
  EXPECT_EQ(config.context_length, 2500);
  EXPECT_THAT(Bad(R"({"rope_scaling": {"type": "dynamic", "factor": 2}, "head_dim": 2})"),
              HasSubstr("dynamic"));
  EXPECT_THAT(Bad(R"({"rope_scaling": {"type": "dynamic"}})"), HasSubstr("factor"));
}

TEST(LlamaVariants, Yarn) {
  const RopeConfig plain =
      Good(R"({"rope_scaling": {"type": "yarn", "factor": 4.0}})").attention.rope;
  EXPECT_EQ(plain.scaling, RopeScalingKind::kYarn);
  EXPECT_EQ(plain.original_context, 131072);  // max_position_embeddings
  EXPECT_EQ(plain.beta_fast, 32);
  EXPECT_EQ(plain.beta_slow, 1);
  EXPECT_TRUE(plain.truncate);
  EXPECT_DOUBLE_EQ(plain.attention_factor, 0.1 * std::log(4.0) + 1);
  const ModelConfig config = Good(R"({"rope_scaling": null, "max_position_embeddings": 40,
      "rope_parameters": {"rope_type": "yarn", "factor": 8, "rope_theta": 5e5, "beta_fast": 20,
      "original_max_position_embeddings": 32, "beta_slow": 2, "truncate": false,
      "attention_factor": 1.25}})");
  const RopeConfig& rope = config.attention.rope;
  EXPECT_EQ(config.context_length, 256);
  EXPECT_EQ(rope.theta, 5e5);
  EXPECT_EQ(rope.beta_fast, 20);
  EXPECT_EQ(rope.beta_slow, 2);
  EXPECT_FALSE(rope.truncate);
  EXPECT_EQ(rope.attention_factor, 1.25);
  // Two multipliers, as one of them alone says nothing.
  EXPECT_DOUBLE_EQ(Good(R"({"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 0.5,
                       "mscale_all_dim": 2}})")
                       .attention.rope.attention_factor,
                   (0.05 * std::log(4.0) + 1) / (0.2 * std::log(4.0) + 1));
  const auto factor = [](const std::string& more) {
    return Good(absl::StrCat(R"({"rope_scaling": {"type": "yarn", "factor": 4.0)", more, "}}"))
        .attention.rope.attention_factor;
  };
  EXPECT_DOUBLE_EQ(factor(R"(, "mscale": 0.5)"), 0.1 * std::log(4.0) + 1);
  EXPECT_DOUBLE_EQ(factor(R"(, "mscale_all_dim": 2)"), 0.1 * std::log(4.0) + 1);
  // A 0 is as good as silence.
  const RopeConfig zeros = Good(R"({"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 0,
      "mscale_all_dim": 0, "beta_fast": 0, "beta_slow": 0}})")
                               .attention.rope;
  EXPECT_EQ(zeros.beta_fast, 32);
  EXPECT_EQ(zeros.beta_slow, 1);
  EXPECT_DOUBLE_EQ(zeros.attention_factor, 0.1 * std::log(4.0) + 1);
  // Without a factor, the two contexts tell it.
  EXPECT_EQ(Good(R"({"rope_scaling": {"type": "yarn",
                "original_max_position_embeddings": 16384}})")
                .attention.rope.factor,
            8);
  EXPECT_THAT(Bad(R"({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1,
                  "beta_slow": 3}})"),
              HasSubstr("beta_fast"));
  EXPECT_THAT(Bad(R"({"rope_scaling": {"type": "yarn", "factor": 2}, "rope_theta": 1})"),
              HasSubstr("rope_theta"));
}

}  // namespace
}  // namespace mambad::checkpoint
