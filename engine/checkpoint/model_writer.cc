#include "engine/checkpoint/model_writer.h"

#include <unistd.h>

#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/parameter_table.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no word for it; Python reads the bare one.
constexpr char kInfinity[] = "\"\\u0001Infinity\"";
Json Limit(double limit) { return std::isinf(limit) ? Json("\x01Infinity") : Json(limit); }
std::string Text(const Json& json) {
  return absl::StrCat(absl::StrReplaceAll(json.dump(2), {{kInfinity, "Infinity"}}), "\n");
}

const char* TypeName(StorageType type) {
  if (type == StorageType::kFloat16) return "float16";
  return type == StorageType::kFloat32 ? "float32" : "bfloat16";
}

// A factor that gives `inner` when it is multiplied with the width and cut, as readers do.
Json Expand(int inner, int width) {
  if (inner % width == 0) return inner / width;
  double expand = static_cast<double>(inner) / width;
  while (static_cast<int>(expand * width) < inner) expand = std::nextafter(expand, 1e9);
  return expand;
}

void AddEnds(const ModelConfig& config, Json& json) {
  if (config.bos_id.has_value()) json["bos_token_id"] = *config.bos_id;
  if (config.eos_ids.size() == 1) json["eos_token_id"] = config.eos_ids[0];
  if (config.eos_ids.size() > 1) json["eos_token_id"] = config.eos_ids;
}

Json Scaling(const RopeConfig& rope) {
  switch (rope.scaling) {
    case RopeScalingKind::kNone:
      return nullptr;
    case RopeScalingKind::kLinear:
      return {{"rope_type", "linear"}, {"factor", rope.factor}};
    case RopeScalingKind::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", rope.factor},
              {"low_freq_factor", rope.low_frequency_factor},
              {"high_freq_factor", rope.high_frequency_factor},
              {"original_max_position_embeddings", rope.original_context}};
    case RopeScalingKind::kDynamic:
      return {{"rope_type", "dynamic"}, {"factor", rope.factor}};
    case RopeScalingKind::kYarn:
      return {{"rope_type", "yarn"},
              {"factor", rope.factor},
              {"original_max_position_embeddings", rope.original_context},
              {"beta_fast", rope.beta_fast},
              {"beta_slow", rope.beta_slow},
              {"truncate", rope.truncate},
              {"attention_factor", rope.attention_factor}};
  }
  return nullptr;
}

// The class that reads what this configuration has.
struct LlamaClass {
  const char* name;
  const char* model_type;
};
LlamaClass ClassOf(const ModelConfig& config) {
  const AttentionConfig& attention = config.attention;
  if (attention.head_norm) return {"Qwen3ForCausalLM", "qwen3"};
  if (attention.bias && !attention.output_bias) return {"Qwen2ForCausalLM", "qwen2"};
  if (attention.sliding_window > 0) return {"MistralForCausalLM", "mistral"};
  return {"LlamaForCausalLM", "llama"};
}

void AddVariant(const ModelConfig& config, const std::string& model_type, Json& json) {
  const AttentionConfig& attention = config.attention;
  if (model_type == "llama" || model_type == "qwen3") json["attention_bias"] = attention.bias;
  if (model_type == "llama") json["mlp_bias"] = config.mlp_bias;
  if (model_type == "mistral") json["sliding_window"] = attention.sliding_window;
  if (model_type != "qwen2" && model_type != "qwen3") return;
  json["use_sliding_window"] = attention.sliding_window > 0;
  if (attention.sliding_window == 0) return;
  json["sliding_window"] = attention.sliding_window;
  json["layer_types"] = Json::array();
  for (int layer = 0; layer < config.layers; ++layer) {
    json["layer_types"].push_back(config.SlidingWindow(layer) > 0 ? "sliding_attention"
                                                                  : "full_attention");
  }
}

// What the class calls max_position_embeddings: of dynamic scaling the context before it. A hybrid
// without attention has no limit, but its base model's class wants a number.
int64_t StatedContext(const ModelConfig& config) {
  const RopeConfig& rope = config.attention.rope;
  if (rope.scaling == RopeScalingKind::kDynamic) return rope.original_context;
  return config.context_length > 0 ? config.context_length : 1 << 20;
}

Json Llama(const ModelConfig& config) {
  const AttentionConfig& attention = config.attention;
  const LlamaClass own = ClassOf(config);
  Json json;
  json["architectures"] = {own.name};
  json["model_type"] = own.model_type;
  json["hidden_act"] = "silu";
  json["hidden_size"] = config.width;
  json["intermediate_size"] = config.mlp_width;
  json["num_hidden_layers"] = config.layers;
  json["num_attention_heads"] = attention.query_heads;
  json["num_key_value_heads"] = attention.key_value_heads;
  json["head_dim"] = attention.head_width;
  json["rms_norm_eps"] = config.norm_epsilon;
  json["max_position_embeddings"] = StatedContext(config);
  json["rope_theta"] = attention.rope.theta;
  json["rope_scaling"] = Scaling(attention.rope);
  AddVariant(config, own.model_type, json);
  json["tie_word_embeddings"] = config.tied_head;
  json["vocab_size"] = config.vocabulary;
  return json;
}

Json MambaPart(const ModelConfig& config) {
  const bool first = config.HasMixer(MixerKind::kMamba);
  const bool second = config.HasMixer(MixerKind::kMamba2);
  const MambaConfig& mamba = config.mamba;
  const Mamba2Config& mamba2 = config.mamba2;
  Json ssm = Json::object();
  ssm["d_state"] = first ? mamba.state_size : mamba2.state_size;
  ssm["d_conv"] = first ? mamba.convolution_width : mamba2.convolution_width;
  ssm["conv_bias"] = first ? mamba.convolution_bias : mamba2.convolution_bias;
  ssm["repeat_kv_before_conv"] =
      first ? mamba.repeat_before_convolution : mamba2.repeat_before_convolution;
  if (first) ssm["dt_rank"] = mamba.dt_rank;
  if (second) {
    ssm["ngroups"] = mamba2.groups;
    ssm["dt_limit"] = {Limit(mamba2.dt_minimum), Limit(mamba2.dt_maximum)};
  }
  Json json;
  json["d_model"] = config.width;
  json["ssm_cfg"] = ssm;
  json["rms_norm_eps"] = config.norm_epsilon;
  json["d_inner"] = first ? mamba.inner_width : mamba2.inner_width;
  json["d_xb"] = first ? mamba.source_width : mamba2.source_width;
  json["intermediate_size"] = config.mlp_width;
  json["hidden_act"] = "silu";
  json["n_layer"] = config.layers;
  json["attn_layers"] = Json::array();
  for (int layer = 0; layer < config.layers; ++layer) {
    if (config.mixers[layer] == MixerKind::kAttention) json["attn_layers"].push_back(layer);
  }
  if (first && !mamba.dt_bias_applied_twice) json["dt_bias_applied"] = 1;
  return json;
}

Json HuggingFaceMamba(const ModelConfig& config) {
  const bool second = config.family == Family::kMamba2;
  const MambaConfig& mamba = config.mamba;
  const Mamba2Config& mamba2 = config.mamba2;
  const int inner = second ? mamba2.inner_width : mamba.inner_width;
  Json json;
  const bool falcon = !second && mamba.selection_norm;
  json["architectures"] = {second   ? "Mamba2ForCausalLM"
                           : falcon ? "FalconMambaForCausalLM"
                                    : "MambaForCausalLM"};
  json["model_type"] = second ? "mamba2" : falcon ? "falcon_mamba" : "mamba";
  if (falcon) json["mixer_rms_eps"] = mamba.selection_norm_epsilon;
  json["hidden_act"] = "silu";
  json["hidden_size"] = config.width;
  json["num_hidden_layers"] = config.layers;
  json["expand"] = Expand(inner, config.width);
  json["state_size"] = second ? mamba2.state_size : mamba.state_size;
  json["conv_kernel"] = second ? mamba2.convolution_width : mamba.convolution_width;
  json["use_conv_bias"] = second ? mamba2.convolution_bias : mamba.convolution_bias;
  json["use_bias"] = second ? mamba2.projection_bias : mamba.projection_bias;
  json["layer_norm_epsilon"] = config.norm_epsilon;
  json["residual_in_fp32"] = true;
  if (second) {
    json["num_heads"] = mamba2.heads;
    json["head_dim"] = inner / mamba2.heads;
    json["n_groups"] = mamba2.groups;
    json["rms_norm"] = true;
    json["time_step_limit"] = {Limit(mamba2.dt_minimum), Limit(mamba2.dt_maximum)};
  } else {
    json["intermediate_size"] = inner;
    json["time_step_rank"] = mamba.dt_rank;
  }
  json["tie_word_embeddings"] = config.tied_head;
  json["vocab_size"] = config.vocabulary;
  return json;
}

Json StateSpaces(const ModelConfig& config) {
  const bool second = config.family == Family::kMamba2;
  const MambaConfig& mamba = config.mamba;
  const Mamba2Config& mamba2 = config.mamba2;
  const int inner = second ? mamba2.inner_width : mamba.inner_width;
  Json ssm;
  ssm["layer"] = second ? "Mamba2" : "Mamba1";
  ssm["expand"] = Expand(inner, config.width);
  ssm["d_state"] = second ? mamba2.state_size : mamba.state_size;
  ssm["d_conv"] = second ? mamba2.convolution_width : mamba.convolution_width;
  ssm["conv_bias"] = second ? mamba2.convolution_bias : mamba.convolution_bias;
  if (second) {
    ssm["headdim"] = inner / mamba2.heads;
    ssm["ngroups"] = mamba2.groups;
    ssm["dt_limit"] = {Limit(mamba2.dt_minimum), Limit(mamba2.dt_maximum)};
  } else {
    ssm["dt_rank"] = mamba.dt_rank;
  }
  // The smallest multiple that pads to the rows there are.
  int multiple = 1;
  while ((config.vocabulary + multiple - 1) / multiple * multiple != config.padded_vocabulary) {
    ++multiple;
  }
  return {{"d_model", config.width},
          {"n_layer", config.layers},
          {"vocab_size", config.vocabulary},
          {"ssm_cfg", ssm},
          {"rms_norm", true},
          {"residual_in_fp32", true},
          {"fused_add_norm", true},
          {"pad_vocab_size_multiple", multiple},
          {"tie_embeddings", config.tied_head}};
}

Json Generation(const ModelConfig& config) {
  const ModelConfig::SamplingDefaults& defaults = config.sampling_defaults;
  Json json = Json::object();
  AddEnds(config, json);
  if (defaults.do_sample) json["do_sample"] = *defaults.do_sample;
  if (defaults.temperature) json["temperature"] = *defaults.temperature;
  if (defaults.top_k) json["top_k"] = *defaults.top_k;
  if (defaults.top_p) json["top_p"] = *defaults.top_p;
  if (defaults.min_p) json["min_p"] = *defaults.min_p;
  if (defaults.repetition_penalty) json["repetition_penalty"] = *defaults.repetition_penalty;
  return json;
}

absl::Status CheckTensors(const std::string& directory, const ModelConfig& config,
                          absl::Span<const TensorToWrite> tensors) {
  const auto bad = [&](const std::string& name, const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, ": tensor ", Quoted(name), ": ", what));
  };
  std::map<std::string, const TensorToWrite*> given;
  for (const TensorToWrite& tensor : tensors) given[tensor.name] = &tensor;
  const ParameterTable table(config);
  for (const Parameter& parameter : table.parameters()) {
    const auto it = given.find(parameter.name);
    if (it == given.end()) {
      if (parameter.optional) continue;
      return bad(parameter.name, absl::StrCat(ShapeText(parameter.shape), " expected, not given"));
    }
    if (it->second->shape != parameter.shape) {
      return bad(parameter.name, absl::StrCat("shape ", ShapeText(it->second->shape), " given, ",
                                              ShapeText(parameter.shape), " expected"));
    }
    given.erase(it);
  }
  if (!given.empty()) return bad(given.begin()->first, "given, but not of this configuration");
  return absl::OkStatus();
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  if (text.empty()) return absl::OkStatus();
  const absl::Span<const std::byte> piece(reinterpret_cast<const std::byte*>(text.data()),
                                          text.size());
  return WriteFileAtomically(path, {piece});
}

}  // namespace

ConfigTexts WriteModelConfig(const ModelConfig& config, StorageType type) {
  ConfigTexts texts;
  if (config.layout == Layout::kStateSpaces) {
    texts.config = Text(StateSpaces(config));
  } else {
    const bool llama = config.family == Family::kLlama || config.family == Family::kHybrid;
    Json json = llama ? Llama(config) : HuggingFaceMamba(config);
    AddEnds(config, json);
    json["torch_dtype"] = TypeName(type);
    texts.config = Text(json);
  }
  if (config.family == Family::kHybrid) texts.mamba_config = Text(MambaPart(config));
  if (const Json generation = Generation(config); !generation.empty()) {
    texts.generation_config = Text(generation);
  }
  return texts;
}

absl::Status WriteModelDirectory(const std::string& directory, const ModelConfig& config,
                                 absl::Span<const TensorToWrite> tensors, int64_t shard_bytes) {
  if (config.layout == Layout::kGguf) {
    return absl::InvalidArgumentError(absl::StrCat(directory, ": GGUF files are only read"));
  }
  if (absl::Status status = CheckTensors(directory, config, tensors); !status.ok()) return status;
  absl::Status status = WriteShardedSafetensors(directory, tensors, shard_bytes);
  const StorageType type = tensors.empty() ? StorageType::kFloat32 : tensors[0].type;
  const ConfigTexts texts = WriteModelConfig(config, type);
  // config.json last: without it the directory is no model.
  if (status.ok()) status = WriteText(directory + "/mamba_config.json", texts.mamba_config);
  // Of an earlier model; it would be believed.
  if (status.ok() && texts.mamba_config.empty()) unlink((directory + "/mamba_config.json").c_str());
  if (status.ok())
    status = WriteText(directory + "/generation_config.json", texts.generation_config);
  if (status.ok()) status = WriteText(directory + "/config.json", texts.config);
  return status;
}

}  // namespace mambad::checkpoint
