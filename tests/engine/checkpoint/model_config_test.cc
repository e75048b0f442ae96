// Configuration files: every spelling, default and trap; refusals by name; ranges.

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/model_config_reader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::checkpoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Members of `base`, those of `changes` over them; a null takes one away.
nlohmann::json Merged(const std::string& base, const std::string& changes) {
  auto json = ParseJsonObject("base", base);
  const auto change = ParseJsonObject("changes", changes);
  EXPECT_TRUE(json.ok()) << json.status();
  EXPECT_TRUE(change.ok()) << change.status();
  if (!json.ok() || !change.ok()) return {};
  for (const auto& [key, value] : change->items()) {
    if (value.is_null()) {
      json->erase(key);
    } else {
      (*json)[key] = value;
    }
  }
  return *json;
}

struct Case {
  std::string base;
  std::string hybrid_base;  // mamba_config.json
  TensorShapes tensors;

  absl::StatusOr<ModelConfig> Read(const std::string& changes,
                                   const std::string& hybrid_changes = "{}",
                                   const std::string& generation = "") const {
    ConfigFiles files;
    files.directory = "dir";
    files.config = Merged(base, changes);
    if (!hybrid_base.empty()) files.mamba_config = Merged(hybrid_base, hybrid_changes);
    if (!generation.empty()) files.generation_config = Merged(generation, "{}");
    return ReadModelConfig(files, tensors);
  }
  ModelConfig Good(const std::string& changes = "{}", const std::string& hybrid_changes = "{}",
                   const std::string& generation = "") const {
    const auto config = Read(changes, hybrid_changes, generation);
    EXPECT_TRUE(config.ok()) << config.status() << " " << changes << hybrid_changes;
    return config.ok() ? *config : ModelConfig();
  }
  std::string Bad(const std::string& changes, const std::string& hybrid_changes = "{}",
                  absl::StatusCode code = absl::StatusCode::kInvalidArgument) const {
    const auto config = Read(changes, hybrid_changes);
    EXPECT_EQ(config.status().code(), code) << config.status() << " " << changes << hybrid_changes;
    const std::string message(config.status().message());
    EXPECT_THAT(message, HasSubstr("dir/"));
    return message;
  }
  std::string Refused(const std::string& changes, const std::string& hybrid_changes = "{}") const {
    return Bad(changes, hybrid_changes, absl::StatusCode::kUnimplemented);
  }
};

// As meta-llama/Llama-3.2-1B has it.
const Case kLlama = {
    R"({"architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 128000,
  "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
  "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
  "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
  "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
  "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,
  "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256})",
    "",
    {}};
// As HuggingFaceH4/zephyr-7b-beta.
const Case kZephyr = {
    R"({"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
  "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
  "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
  "pad_token_id": 2, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 32000})",
    "",
    {{"lm_head.weight", {32000, 4096}}}};
// As state-spaces/mamba-130m-hf: with what its conversion left behind.
const Case kMamba = {
    R"({"architectures": ["MambaForCausalLM"], "bos_token_id": 0, "conv_kernel": 4, "d_inner": 1536,
  "d_model": 768, "eos_token_id": 0, "expand": 2, "fused_add_norm": true, "hidden_act": "silu", "hidden_size": 768,
  "intermediate_size": 1536, "layer_norm_epsilon": 1e-05, "model_type": "mamba", "n_layer": 24,
  "num_hidden_layers": 24, "pad_vocab_size_multiple": 8, "rms_norm": true, "ssm_cfg": {"layer": "Mamba2"},
  "state_size": 16, "time_step_rank": 48, "torch_dtype": "float32", "use_bias": false, "use_conv_bias": true,
  "vocab_size": 50280})",
    "",
    {}};
// As mistralai/Mamba-Codestral-7B-v0.1.
const Case kMamba2 = {
    R"({"architectures": ["Mamba2ForCausalLM"], "bos_token_id": 0, "chunk_size": 256, "conv_kernel": 4,
  "eos_token_id": 0, "expand": 2, "head_dim": 64, "hidden_act": "silu", "hidden_size": 4096,
  "intermediate_size": 8192, "layer_norm_epsilon": 1e-05, "model_type": "mamba2", "n_groups": 8,
  "norm_before_gate": true, "num_heads": 128, "num_hidden_layers": 64, "pad_token_id": 0, "residual_in_fp32": true,
  "rms_norm": true, "state_size": 128, "tie_word_embeddings": false, "time_step_floor": 0.0001,
  "time_step_limit": [0.0, Infinity], "time_step_rank": 256, "use_bias": false, "use_conv_bias": true,
  "vocab_size": 32768})",
    "",
    {{"lm_head.weight", {32768, 4096}}}};
// As state-spaces/mamba-130m and mamba2-130m.
const Case kStateSpaces = {
    R"({"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": true,
  "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 8})",
    "",
    {{"lm_head.weight", {50280, 768}}}};
const Case kStateSpaces2 = {
    R"({"d_model": 768, "d_intermediate": 0, "n_layer": 24, "vocab_size": 50277,
  "ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": true, "residual_in_fp32": true,
  "fused_add_norm": true, "pad_vocab_size_multiple": 16, "tie_embeddings": true})",
    "",
    {{"lm_head.weight", {50288, 768}}}};

// As JunxiongWang/MambaInLlama_0_50 and Llama3.2-Mamba2-3B: a few layers of it.
Case Hybrid(bool second, bool repeat_before) {
  Case hybrid;
  hybrid.base =
      R"({"hidden_size": 256, "intermediate_size": 512, "model_type": "llama", "num_attention_heads": 4,
    "num_hidden_layers": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "rope_scaling":
    {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3"}, "max_position_embeddings": 4096, "vocab_size": 1000})";
  hybrid.hybrid_base = absl::StrCat(
      R"({"d_model": 256, "ssm_cfg": )",
      second ? R"({"expand": 1, "ngroups": 4, "d_state": 64})" : R"({"expand": 1})",
      R"(, "rms_norm_eps": 1e-05, "vocab_size": null, "d_inner": null, "d_xb": 128, "intermediate_size": 512,
      "hidden_act": "silu", "n_layer": 3, "attn_layers": [1]})");
  hybrid.tensors["lm_head.weight"] = {1000, 256};
  const int64_t channels = second ? (repeat_before ? 768 : 512) : (repeat_before ? 256 : 128);
  for (int layer : {0, 2}) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".mamba.");
    hybrid.tensors[prefix + "conv1d.weight"] = {channels, 1, 4};
    hybrid.tensors[prefix + (second ? "dt_bias" : "dt_proj.bias")] = {second ? 4 : 256};
    hybrid.tensors[prefix + "A_log"] =
        second ? std::vector<int64_t>{4} : std::vector<int64_t>{256, 16};
  }
  return hybrid;
}

// ---- Llama -------------------------------------------------------------------------------------

TEST(LlamaConfig, ReadsTheReleasedFile) {
  const ModelConfig config = kLlama.Good();
  EXPECT_EQ(config.family, Family::kLlama);
  EXPECT_EQ(config.layout, Layout::kHuggingFace);
  EXPECT_EQ(config.width, 2048);
  EXPECT_EQ(config.mlp_width, 8192);
  EXPECT_EQ(config.mixers, std::vector<MixerKind>(16, MixerKind::kAttention));
  EXPECT_EQ(config.vocabulary, 128256);
  EXPECT_EQ(config.padded_vocabulary, 128256);
  EXPECT_EQ(config.norm_epsilon, 1e-5);
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(config.context_length, 131072);
  EXPECT_EQ(config.attention.query_heads, 32);
  EXPECT_EQ(config.attention.key_value_heads, 8);
  EXPECT_EQ(config.attention.head_width, 64);
  EXPECT_EQ(config.attention.sliding_window, 0);
  const RopeConfig& rope = config.attention.rope;
  EXPECT_EQ(rope.theta, 500000);
  EXPECT_EQ(rope.scaling, RopeScalingKind::kLlama3);
  EXPECT_EQ(rope.factor, 32);
  EXPECT_EQ(rope.low_frequency_factor, 1);
  EXPECT_EQ(rope.high_frequency_factor, 4);
  EXPECT_EQ(rope.original_context, 8192);
  EXPECT_THAT(config.eos_ids, ElementsAre(128001, 128008, 128009));
  EXPECT_EQ(config.bos_id, 128000);
}

TEST(LlamaConfig, NewSpelling) {
  const ModelConfig config =
      kLlama.Good(R"({"rope_theta": null, "rope_scaling": null, "torch_dtype": null,
      "dtype": "bfloat16", "rope_parameters": {"rope_theta": 250000.0, "rope_type": "linear", "factor": 2}})");
  EXPECT_EQ(config.attention.rope.theta, 250000);
  EXPECT_EQ(config.attention.rope.scaling, RopeScalingKind::kLinear);
  EXPECT_EQ(config.attention.rope.factor, 2);
  EXPECT_EQ(
      kLlama
          .Good(
              R"({"rope_scaling": null, "rope_parameters": {"rope_type": "default", "rope_theta": 7e4}})")
          .attention.rope.theta,
      7e4);
}

TEST(LlamaConfig, OldSpellingAndDefaults) {
  const ModelConfig config =
      kLlama.Good(R"({"rope_scaling": {"type": "linear", "factor": 4.0}, "head_dim": null,
      "num_key_value_heads": null, "rms_norm_eps": null, "max_position_embeddings": null, "eos_token_id": 5})");
  EXPECT_EQ(config.attention.rope.scaling, RopeScalingKind::kLinear);
  EXPECT_EQ(config.attention.head_width, 64);
  EXPECT_EQ(config.attention.key_value_heads, 32);
  EXPECT_EQ(config.norm_epsilon, 1e-6);
  EXPECT_EQ(config.context_length, 2048);
  EXPECT_THAT(config.eos_ids, ElementsAre(5));
  EXPECT_EQ(kLlama.Good(R"({"rope_theta": null, "rope_scaling": null})").attention.rope.theta,
            10000);
  EXPECT_EQ(kLlama.Good(R"({"head_dim": 128})").attention.head_width, 128);
}

TEST(LlamaConfig, SlidingWindowIsMistrals) {
  EXPECT_EQ(kZephyr.Good().attention.sliding_window, 4096);
  const auto silent = kZephyr.Good(R"({"sliding_window": null})");  // takes the member away
  EXPECT_EQ(silent.attention.sliding_window, 4096);
  ConfigFiles files;
  files.config = Merged(kZephyr.base, "{}");
  files.config["sliding_window"] = nullptr;
  EXPECT_EQ(ReadModelConfig(files, kZephyr.tensors)->attention.sliding_window, 0);
  EXPECT_EQ(kLlama.Good(R"({"sliding_window": 4096})").attention.sliding_window, 0);
  EXPECT_FALSE(kZephyr.Good().tied_head);
}

TEST(LlamaConfig, TiedByTheTensorsWhereTheFileIsSilent) {
  EXPECT_TRUE(kLlama.Good(R"({"tie_word_embeddings": null})").tied_head);  // no lm_head there
  EXPECT_FALSE(kZephyr.Good(R"({"tie_word_embeddings": null})").tied_head);
}

TEST(LlamaConfig, RefusesByName) {
  EXPECT_THAT(kLlama.Refused(R"({"hidden_act": "gelu"})"), HasSubstr("\"gelu\""));
  EXPECT_THAT(kLlama.Refused(R"({"rope_scaling": {"type": "longrope", "factor": 2.0}})"),
              AllOf(HasSubstr("\"longrope\""), HasSubstr("dynamic and yarn are")));
  EXPECT_THAT(kZephyr.Refused(R"({"attention_bias": true})"), HasSubstr("attention_bias"));
  EXPECT_THAT(kZephyr.Refused(R"({"mlp_bias": true})"), HasSubstr("mlp_bias"));
  for (const char* type : {"phi3", "gemma2", "olmo2", "granite", "smollm3", "mistral3"}) {
    EXPECT_THAT(kLlama.Refused(absl::StrCat("{\"model_type\": \"", type, "\"}")),
                AllOf(HasSubstr(type), HasSubstr("llama, mistral, qwen2, qwen3, mamba")));
  }
  EXPECT_THAT(kLlama.Refused(R"({"partial_rotary_factor": 0.5})"),
              HasSubstr("partial_rotary_factor"));
  EXPECT_THAT(kLlama.Refused(R"({"quantization_config": {"bits": 4}})"),
              HasSubstr("quantization_config"));
  EXPECT_THAT(kLlama.Refused(R"({"model_type": "gpt_neox"})"), HasSubstr("\"gpt_neox\""));
  EXPECT_THAT(kLlama.Bad(R"({"model_type": null})"), HasSubstr("model_type: missing"));
}

TEST(LlamaConfig, EveryNumberIsBounded) {
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "head_dim", "max_position_embeddings"}) {
    for (const char* value : {"0", "-1", "1e300", "18446744073709551615", "9223372036854775807",
                              "2.5", "\"64\"", "[64]", "true", "Infinity", "-Infinity"}) {
      EXPECT_THAT(kLlama.Bad(absl::StrCat("{\"", key, "\": ", value, "}")),
                  AllOf(HasSubstr("config.json"), HasSubstr(key)))
          << value;
    }
  }
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "vocab_size"}) {
    EXPECT_THAT(kLlama.Bad(absl::StrCat("{\"", key, "\": null}")),
                HasSubstr(absl::StrCat(key, ": missing")));
  }
  EXPECT_THAT(kLlama.Bad(R"({"hidden_size": 131073})"),
              AllOf(HasSubstr("131073 found"), HasSubstr("1 to 131072")));
  EXPECT_THAT(kLlama.Bad(R"({"num_key_value_heads": 5})"),
              AllOf(HasSubstr("5 found"), HasSubstr("divisor of 32")));
  EXPECT_THAT(kLlama.Bad(R"({"head_dim": 63})"), HasSubstr("even"));
  EXPECT_THAT(
      kLlama.Bad(R"({"head_dim": null, "num_attention_heads": 33, "num_key_value_heads": 33})"),
      HasSubstr("num_attention_heads"));
  EXPECT_THAT(kLlama.Bad(R"({"num_attention_heads": 4096, "head_dim": 256})"),
              HasSubstr("heads x head width"));
  EXPECT_THAT(kLlama.Bad(R"({"rope_theta": 0})"), HasSubstr("rope_theta"));
  EXPECT_THAT(kLlama.Bad(R"({"rope_scaling": [1]})"), HasSubstr("rope_scaling"));
  EXPECT_THAT(kLlama.Bad(R"({"rope_scaling": {"type": "linear"}})"), HasSubstr("factor: missing"));
  EXPECT_THAT(
      kLlama.Bad(R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
      "high_freq_factor": 4, "original_max_position_embeddings": 8192}})"),
      HasSubstr("high_freq_factor"));
  EXPECT_THAT(kLlama.Bad(R"({"tie_word_embeddings": "yes"})"), HasSubstr("tie_word_embeddings"));
  EXPECT_THAT(kLlama.Bad(R"({"eos_token_id": [1, "2"]})"), HasSubstr("eos_token_id"));
  EXPECT_THAT(kLlama.Bad(R"({"bos_token_id": "1"})"), HasSubstr("bos_token_id"));
}

TEST(LlamaConfig, IdsThatTheModelDoesNotHaveAreLeftOut) {
  const ModelConfig config =
      kLlama.Good(R"({"eos_token_id": [128256, 3, -1, 18446744073709551615], "bos_token_id": -1})");
  EXPECT_THAT(config.eos_ids, ElementsAre(3));
  EXPECT_EQ(config.bos_id, std::nullopt);
  ASSERT_EQ(config.warnings.size(), 4);
  EXPECT_THAT(config.warnings[0], AllOf(HasSubstr("config.json: eos_token_id: 128256 is left out"),
                                        HasSubstr("0 to 128255")));
  EXPECT_THAT(config.warnings[3], HasSubstr("bos_token_id: -1"));
}

TEST(LlamaConfig, IdsMayBeWrittenAsFractions) {
  const ModelConfig config =
      kLlama.Good(R"({"eos_token_id": [7.0, 1e30, 9], "bos_token_id": 5.0})");
  EXPECT_THAT(config.eos_ids, ElementsAre(7, 9));
  EXPECT_EQ(config.bos_id, 5);
  EXPECT_THAT(config.warnings, ElementsAre(HasSubstr("eos_token_id: 1e+30 is left out")));
  EXPECT_THAT(kLlama.Bad(R"({"eos_token_id": 7.5})"), HasSubstr("eos_token_id: 7.5 found"));
  EXPECT_THAT(kLlama.Bad(R"({"bos_token_id": 7.5})"), HasSubstr("bos_token_id: 7.5 found"));
}

TEST(GenerationConfig, AddsEndsAndSetsSampling) {
  const ModelConfig config =
      kZephyr.Good("{}", "{}", R"({"eos_token_id": [2, 32, 2], "do_sample": true,
      "temperature": 0.7, "top_p": 0.95, "top_k": 50, "min_p": 0.1, "repetition_penalty": 1.1})");
  EXPECT_THAT(config.eos_ids, ElementsAre(2, 32));
  const auto& defaults = config.sampling_defaults;
  EXPECT_EQ(defaults.do_sample, true);
  EXPECT_EQ(defaults.temperature, 0.7);
  EXPECT_EQ(defaults.top_p, 0.95);
  EXPECT_EQ(defaults.top_k, 50);
  EXPECT_EQ(defaults.min_p, 0.1);
  EXPECT_EQ(defaults.repetition_penalty, 1.1);
  EXPECT_EQ(kZephyr.Good().sampling_defaults.temperature, std::nullopt);
  EXPECT_THAT(kZephyr.Good("{}", "{}", "{}").eos_ids, ElementsAre(2));
  EXPECT_EQ(kZephyr.Good("{}", "{}", "{}").bos_id, 1);
  EXPECT_EQ(kZephyr.Good("{}", "{}", R"({"bos_token_id": 7})").bos_id, 7);
  EXPECT_THAT(kZephyr.Good("{}", "{}", R"({"top_p": 7})").warnings,
              ElementsAre(AllOf(HasSubstr("dir/generation_config.json"), HasSubstr("top_p"))));
}

// ---- Mamba -------------------------------------------------------------------------------------

TEST(MambaConfig, LeftoversSayNothing) {
  const ModelConfig config = kMamba.Good();
  EXPECT_EQ(config.family, Family::kMamba);
  EXPECT_EQ(config.layout, Layout::kHuggingFace);
  EXPECT_EQ(config.mamba.inner_width, 1536);
  EXPECT_EQ(config.mamba.state_size, 16);
  EXPECT_EQ(config.mamba.dt_rank, 48);
  EXPECT_EQ(config.mamba.groups, 1);
  EXPECT_EQ(config.mamba.source_width, 0);
  EXPECT_FALSE(config.mamba.dt_bias_applied_twice);
  EXPECT_EQ(config.vocabulary, 50280);  // the padding counts here
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(config.mlp_width, 0);
  EXPECT_EQ(config.context_length, 0);
  EXPECT_THAT(config.eos_ids, ElementsAre(0));
}

TEST(MambaConfig, DefaultsAndOverrides) {
  const ModelConfig config =
      kMamba.Good(R"({"expand": null, "intermediate_size": null, "time_step_rank": "auto",
      "state_size": null, "conv_kernel": null})");
  EXPECT_EQ(config.mamba.inner_width, 1536);
  EXPECT_EQ(config.mamba.dt_rank, 48);
  EXPECT_EQ(config.mamba.convolution_width, 4);
  EXPECT_EQ(kMamba.Good(R"({"hidden_size": 760, "time_step_rank": null})").mamba.dt_rank,
            48);  // rounded up
  EXPECT_EQ(kMamba.Good(R"({"time_step_rank": 20})").mamba.dt_rank, 20);
  EXPECT_EQ(kMamba.Good(R"({"intermediate_size": null, "expand": 1.5})").mamba.inner_width, 1152);
  EXPECT_FALSE(kMamba.Good(R"({"tie_word_embeddings": false})").tied_head);
  EXPECT_FALSE(kMamba.Good(R"({"use_conv_bias": false})").mamba.convolution_bias);
  EXPECT_TRUE(kMamba.Good(R"({"use_bias": true})").mamba.projection_bias);
  EXPECT_FALSE(kMamba.Good().mamba.projection_bias);
  EXPECT_FALSE(kMamba.Good().mamba.selection_norm);
  const ModelConfig falcon =
      kMamba.Good(R"({"model_type": "falcon_mamba", "mixer_rms_eps": 1e-3})");
  EXPECT_EQ(falcon.family, Family::kMamba);
  EXPECT_TRUE(falcon.mamba.selection_norm);
  EXPECT_EQ(falcon.mamba.selection_norm_epsilon, 1e-3);
  EXPECT_EQ(kMamba.Good(R"({"model_type": "falcon_mamba"})").mamba.selection_norm_epsilon, 1e-6);
  EXPECT_THAT(kMamba.Refused(R"({"rms_norm": false})"), HasSubstr("rms_norm"));
  EXPECT_THAT(kMamba.Bad(R"({"state_size": 257})"), HasSubstr("state size"));
  EXPECT_THAT(kMamba.Bad(R"({"time_step_rank": "x"})"), HasSubstr("time_step_rank"));
  EXPECT_THAT(kMamba.Bad(R"({"intermediate_size": null, "expand": 1e-9})"), HasSubstr("expand"));
  EXPECT_THAT(kMamba.Bad(R"({"hidden_size": 131072, "intermediate_size": null, "expand": 2})"),
              HasSubstr("expand"));
  EXPECT_THAT(kMamba.Bad(R"({"conv_kernel": 9})"), HasSubstr("conv_kernel"));
}

TEST(Mamba2Config, ReadsTheReleasedFile) {
  const ModelConfig config = kMamba2.Good();
  EXPECT_EQ(config.family, Family::kMamba2);
  EXPECT_EQ(config.mamba2.inner_width, 8192);
  EXPECT_EQ(config.mamba2.heads, 128);
  EXPECT_EQ(config.mamba2.groups, 8);
  EXPECT_EQ(config.mamba2.state_size, 128);
  EXPECT_EQ(config.mamba2.norm_epsilon, 1e-5);
  EXPECT_EQ(config.mamba2.dt_minimum, 0);
  EXPECT_TRUE(std::isinf(config.mamba2.dt_maximum));
  EXPECT_FALSE(config.tied_head);
  // The gated norm goes by the file's epsilon in this layout.
  EXPECT_EQ(kMamba2.Good(R"({"layer_norm_epsilon": 1e-6})").mamba2.norm_epsilon, 1e-6);
  EXPECT_TRUE(std::isinf(
      kMamba2.Good(R"({"time_step_limit": [0.0, {"__float__": "Infinity"}]})").mamba2.dt_maximum));
  EXPECT_EQ(kMamba2.Good(R"({"time_step_limit": [0.001, 0.1]})").mamba2.dt_maximum, 0.1);
  EXPECT_EQ(kMamba2.Good(R"({"hidden_size": 512, "expand": 1.5, "num_heads": 12, "n_groups": 2})")
                .mamba2.inner_width,
            768);
}

TEST(Mamba2Config, RefusesWhatDoesNotAdd) {
  EXPECT_THAT(kMamba2.Bad(R"({"num_heads": 64})"),
              AllOf(HasSubstr("num_heads 64"), HasSubstr("8192")));
  EXPECT_THAT(kMamba2.Bad(R"({"n_groups": 3})"), HasSubstr("groups"));
  EXPECT_THAT(kMamba2.Bad(R"({"state_size": 1024})"), HasSubstr("one head's state"));
  for (const char* limit : {"[0.1, 0.01]", "[0.0]", "[Infinity, Infinity]", "[-1, 1]", "[\"0\", 1]",
                            "0.5", "[0, NaN]"}) {
    EXPECT_THAT(kMamba2.Bad(absl::StrCat("{\"time_step_limit\": ", limit, "}")),
                HasSubstr("time_step_limit"))
        << limit;
  }
  EXPECT_TRUE(kMamba2.Good(R"({"use_bias": true})").mamba2.projection_bias);
}

TEST(StateSpacesConfig, PadsItsVocabulary) {
  const ModelConfig config = kStateSpaces.Good();
  EXPECT_EQ(config.family, Family::kMamba);
  EXPECT_EQ(config.layout, Layout::kStateSpaces);
  EXPECT_EQ(config.vocabulary, 50277);
  EXPECT_EQ(config.padded_vocabulary, 50280);
  EXPECT_EQ(config.mamba.inner_width, 1536);
  EXPECT_EQ(config.mamba.dt_rank, 48);
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(config.norm_epsilon, 1e-5);
  EXPECT_EQ(kStateSpaces.Good(R"({"vocab_size": 50280})").padded_vocabulary, 50280);
  EXPECT_THAT(kStateSpaces.Bad(R"({"vocab_size": 4194304, "pad_vocab_size_multiple": 65535})"),
              HasSubstr("vocabulary"));
}

TEST(StateSpacesConfig, LayerOptionsOverride) {
  const ModelConfig config = kStateSpaces.Good(
      R"({"ssm_cfg": {"expand": 1, "d_state": 32, "d_conv": 3, "dt_rank": 7, "conv_bias": false}})");
  EXPECT_EQ(config.mamba.inner_width, 768);
  EXPECT_EQ(config.mamba.state_size, 32);
  EXPECT_EQ(config.mamba.convolution_width, 3);
  EXPECT_EQ(config.mamba.dt_rank, 7);
  EXPECT_FALSE(config.mamba.convolution_bias);
}

TEST(StateSpacesConfig, SecondLayer) {
  const ModelConfig config = kStateSpaces2.Good();
  EXPECT_EQ(config.family, Family::kMamba2);
  EXPECT_EQ(config.padded_vocabulary, 50288);
  EXPECT_EQ(config.mamba2.heads, 24);
  EXPECT_EQ(config.mamba2.groups, 1);
  EXPECT_EQ(config.mamba2.state_size, 128);
  EXPECT_EQ(config.mamba2.norm_epsilon, 1e-5);
  const Mamba2Config other =
      kStateSpaces2
          .Good(R"({"ssm_cfg": {"layer": "Mamba2", "headdim": 32, "ngroups": 2,
      "dt_limit": [0.01, 0.2]}})")
          .mamba2;
  EXPECT_EQ(other.heads, 48);
  EXPECT_EQ(other.groups, 2);
  EXPECT_EQ(other.dt_minimum, 0.01);
  EXPECT_EQ(other.dt_maximum, 0.2);
}

TEST(StateSpacesConfig, RefusesByName) {
  EXPECT_THAT(kStateSpaces.Refused(R"({"rms_norm": false})"), HasSubstr("rms_norm"));
  EXPECT_THAT(kStateSpaces2.Refused(R"({"d_intermediate": 1})"), HasSubstr("d_intermediate"));
  EXPECT_THAT(kStateSpaces2.Refused(R"({"attn_layer_idx": [3]})"), HasSubstr("attn_layer_idx"));
  for (const char* option : {"\"norm_before_gate\": true", "\"D_has_hdim\": true", "\"bias\": true",
                             "\"d_ssm\": 64", "\"rmsnorm\": false", "\"layer\": \"Mamba3\""}) {
    const std::string name = std::string(option).substr(1, std::string(option).find('"', 1) - 1);
    EXPECT_THAT(
        kStateSpaces2.Refused(absl::StrCat(
            "{\"ssm_cfg\": {", name == "layer" ? "" : "\"layer\": \"Mamba2\", ", option, "}}")),
        HasSubstr(name));
  }
  EXPECT_THAT(kStateSpaces2.Bad(R"({"ssm_cfg": {"layer": "Mamba2", "headdim": 100}})"),
              HasSubstr("headdim"));
  EXPECT_THAT(kStateSpaces2.Bad(R"({"ssm_cfg": 3})"), HasSubstr("ssm_cfg"));
}

// ---- hybrids -----------------------------------------------------------------------------------

TEST(HybridConfig, TensorsTellWhichMamba) {
  const ModelConfig first = Hybrid(false, true).Good();
  EXPECT_EQ(first.family, Family::kHybrid);
  EXPECT_EQ(first.layout, Layout::kMambaInLlama);
  EXPECT_THAT(first.mixers,
              ElementsAre(MixerKind::kMamba, MixerKind::kAttention, MixerKind::kMamba));
  EXPECT_THAT(first.fused_mamba, ElementsAre(false, false, false));
  EXPECT_THAT(first.fused_attention, ElementsAre(false, false, false));
  EXPECT_EQ(first.mamba.inner_width, 256);  // d_inner null: expand x width
  EXPECT_EQ(first.mamba.state_size, 16);
  EXPECT_EQ(first.mamba.groups, 16);
  EXPECT_EQ(first.mamba.source_width, 128);
  EXPECT_EQ(first.mamba.dt_rank, 16);
  EXPECT_TRUE(first.mamba.dt_bias_applied_twice);
  EXPECT_TRUE(first.mamba.repeat_before_convolution);
  const ModelConfig second = Hybrid(true, false).Good();
  EXPECT_THAT(second.mixers,
              ElementsAre(MixerKind::kMamba2, MixerKind::kAttention, MixerKind::kMamba2));
  EXPECT_EQ(second.mamba2.heads, 4);
  EXPECT_EQ(second.mamba2.groups, 4);
  EXPECT_EQ(second.mamba2.state_size, 64);
  EXPECT_EQ(second.mamba2.source_width, 128);
  EXPECT_EQ(second.mamba2.norm_epsilon, 1e-5);
  EXPECT_FALSE(second.mamba2.repeat_before_convolution);
}

TEST(HybridConfig, TensorsTellWhatIsFused) {
  Case hybrid = Hybrid(false, true);
  hybrid.tensors["model.layers.2.mamba.in_proj.weight"] = {784, 256};
  hybrid.tensors["model.layers.1.mha.in_proj.weight"] = {512, 256};
  const ModelConfig config = hybrid.Good();
  EXPECT_THAT(config.fused_mamba, ElementsAre(false, false, true));
  EXPECT_THAT(config.fused_attention, ElementsAre(false, true, false));
  // Fused attention was trained without the scaling.
  EXPECT_EQ(config.attention.rope.scaling, RopeScalingKind::kLlama3);
  EXPECT_EQ(config.attention.fused_rope.scaling, RopeScalingKind::kNone);
  EXPECT_EQ(config.attention.fused_rope.theta, 500000);
}

TEST(HybridConfig, BiasIsTwiceUnlessTheFileSaysOnce) {
  EXPECT_FALSE(
      Hybrid(false, true).Good("{}", R"({"dt_bias_applied": 1})").mamba.dt_bias_applied_twice);
  EXPECT_THAT(Hybrid(false, true).Bad("{}", R"({"dt_bias_applied": 3})"),
              HasSubstr("dt_bias_applied"));
}

TEST(HybridConfig, ChannelsTellWhereTheRepeatIs) {
  EXPECT_FALSE(Hybrid(false, false).Good().mamba.repeat_before_convolution);
  EXPECT_TRUE(Hybrid(true, true).Good().mamba2.repeat_before_convolution);
  EXPECT_FALSE(Hybrid(false, true)
                   .Good("{}", R"({"ssm_cfg": {"expand": 1, "repeat_kv_before_conv": false}})")
                   .mamba.repeat_before_convolution);
}

TEST(HybridConfig, StateFromWhateverSays) {
  EXPECT_EQ(Hybrid(true, false)
                .Good("{}", R"({"ssm_cfg": {"expand": 1, "ngroups": 4}})")
                .mamba2.state_size,
            64);
  EXPECT_EQ(Hybrid(true, false).Good("{}", R"({"ssm_cfg": {"expand": 1}})").mamba2.state_size, 64);
  EXPECT_THAT(
      Hybrid(true, false).Bad("{}", R"({"ssm_cfg": {"expand": 1, "ngroups": 4, "d_state": 32}})"),
      HasSubstr("ngroups 4 x d_state 32"));
}

TEST(HybridConfig, WithoutAttentionThereIsNoLimit) {
  Case hybrid = Hybrid(false, true);
  hybrid.tensors["model.layers.1.mamba.dt_proj.bias"] = {256};
  EXPECT_EQ(hybrid.Good().context_length, 4096);
  EXPECT_EQ(hybrid.Good("{}", R"({"attn_layers": []})").context_length, 0);
  EXPECT_EQ(hybrid.Good("{}", R"({"attn_layers": null})").HasMixer(MixerKind::kAttention), false);
}

TEST(HybridConfig, RefusesByNameAndRange) {
  const Case hybrid = Hybrid(true, false);
  EXPECT_THAT(hybrid.Refused("{}", R"({"rms_norm_eps": 1e-06})"), HasSubstr("rms_norm_eps"));
  EXPECT_THAT(hybrid.Refused(R"({"rms_norm_eps": 1e-06})"), HasSubstr("rms_norm_eps"));
  for (const char* option :
       {"norm_before_gate", "D_has_hdim", "bias", "proj_x_bias", "proj_z_bias", "out_proj_bias"}) {
    EXPECT_THAT(hybrid.Refused("{}", absl::StrCat(R"({"ssm_cfg": {")", option, R"(": true}})")),
                HasSubstr(option));
  }
  EXPECT_THAT(hybrid.Refused("{}", R"({"ssm_cfg": {"rmsnorm": false}})"), HasSubstr("rmsnorm"));
  EXPECT_THAT(hybrid.Refused("{}", R"({"ssm_cfg": {"d_ssm": 64}})"), HasSubstr("d_ssm"));
  EXPECT_THAT(hybrid.Refused("{}", R"({"hidden_act": "gelu"})"), HasSubstr("\"gelu\""));
  EXPECT_THAT(hybrid.Bad("{}", R"({"intermediate_size": 256})"),
              AllOf(HasSubstr("intermediate_size"), HasSubstr("512")));
  Case fused = hybrid;
  fused.tensors["model.layers.1.mha.in_proj.weight"] = {512, 256};
  EXPECT_THAT(fused.Refused(R"({"attention_bias": true})"), HasSubstr("mha.in_proj"));
  EXPECT_THAT(hybrid.Bad("{}", R"({"d_xb": null})"),
              AllOf(HasSubstr("mamba_config.json"), HasSubstr("d_xb: missing")));
  EXPECT_THAT(hybrid.Bad("{}", R"({"d_xb": 100})"), HasSubstr("d_xb: 100"));
  EXPECT_THAT(hybrid.Bad("{}", R"({"d_xb": 192})"), HasSubstr("d_xb: 192"));
  EXPECT_THAT(hybrid.Bad("{}", R"({"d_inner": 250, "ssm_cfg": {"d_state": 64}})"),
              HasSubstr("250"));
  EXPECT_THAT(hybrid.Bad("{}", R"({"n_layer": 4})"), AllOf(HasSubstr("n_layer"), HasSubstr("3")));
  EXPECT_THAT(hybrid.Bad("{}", R"({"d_model": 128})"), HasSubstr("d_model"));
  for (const char* layers :
       {"[3]", "[-1]", "[1.5]", "[\"1\"]", "1", "{}", "[18446744073709551615]"}) {
    EXPECT_THAT(hybrid.Bad("{}", absl::StrCat("{\"attn_layers\": ", layers, "}")),
                HasSubstr("attn_layers"))
        << layers;
  }
}

}  // namespace
}  // namespace mambad::checkpoint
