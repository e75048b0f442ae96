// The configuration files of random models, spelled as released ones are.

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/support/checkpoint_writer.h"

namespace mambad::support {
namespace {

using checkpoint::Family;
using checkpoint::Layout;
using checkpoint::MixerKind;
using checkpoint::RopeScalingKind;
using checkpoint::StorageType;
using Json = nlohmann::ordered_json;

constexpr char kInfinity[] = "@Infinity@";  // stands for the token that JSON has no word for

std::string Text(const Json& json) {
  return absl::StrReplaceAll(json.dump(2), {{"\"@Infinity@\"", "Infinity"}}) + "\n";
}

std::string TypeName(StorageType type) {
  if (type == StorageType::kFloat16) return "float16";
  return type == StorageType::kBFloat16 ? "bfloat16" : "float32";
}

Json Limit(double limit) { return std::isinf(limit) ? Json(kInfinity) : Json(limit); }

Json EosIds(const RandomModelOptions& o) {
  return o.eos_ids.size() == 1 ? Json(o.eos_ids[0]) : Json(o.eos_ids);
}

Json RopeScaling(const RandomModelOptions& o) {
  if (o.rope_scaling == RopeScalingKind::kNone) return nullptr;
  Json scaling;
  if (o.rope_scaling == RopeScalingKind::kLinear) {
    // Old files say "type".
    scaling[o.new_spelling ? "rope_type" : "type"] = "linear";
    scaling["factor"] = o.rope_factor;
    return scaling;
  }
  if (o.rope_scaling == RopeScalingKind::kDynamic) {
    scaling[o.new_spelling ? "rope_type" : "type"] = "dynamic";
    scaling["factor"] = o.rope_factor;
    return scaling;
  }
  if (o.rope_scaling == RopeScalingKind::kYarn) {
    scaling["factor"] = o.rope_factor;
    scaling["original_max_position_embeddings"] = o.rope_original_context;
    scaling[o.new_spelling ? "rope_type" : "type"] = "yarn";
    return scaling;
  }
  scaling["factor"] = o.rope_factor;
  scaling["high_freq_factor"] = 4.0;
  scaling["low_freq_factor"] = 1.0;
  scaling["original_max_position_embeddings"] = o.rope_original_context;
  scaling["rope_type"] = "llama3";
  return scaling;
}

Json LlamaConfig(const RandomModelOptions& o) {
  const bool qwen = !o.model_type.empty();
  const bool mistral = !qwen && o.sliding_window > 0;
  Json config;
  config["architectures"] = {
      qwen      ? (o.model_type == "qwen2" ? "Qwen2ForCausalLM" : "Qwen3ForCausalLM")
      : mistral ? "MistralForCausalLM"
                : "LlamaForCausalLM"};
  config["attention_dropout"] = 0.0;
  config["bos_token_id"] = 1;
  config["eos_token_id"] = EosIds(o);
  if (o.head_width * o.query_heads != o.width || o.new_spelling || o.model_type == "qwen3")
    config["head_dim"] = o.head_width;
  config["hidden_act"] = "silu";
  config["hidden_size"] = o.width;
  config["initializer_range"] = 0.02;
  config["intermediate_size"] = o.mlp_width;
  config["max_position_embeddings"] = o.context_length;
  if (!mistral && !qwen) config["mlp_bias"] = o.mlp_bias;
  if (!mistral && o.model_type != "qwen2") config["attention_bias"] = o.attention_bias;
  config["model_type"] = qwen ? o.model_type : mistral ? "mistral" : "llama";
  config["num_attention_heads"] = o.query_heads;
  config["num_hidden_layers"] = o.layers;
  config["num_key_value_heads"] = o.key_value_heads;
  config["rms_norm_eps"] = o.norm_epsilon;
  if (o.new_spelling) {
    Json rope = RopeScaling(o);
    if (rope.is_null()) rope["rope_type"] = "default";
    rope["rope_theta"] = o.rope_theta;
    config["rope_parameters"] = rope;
  } else {
    config["rope_scaling"] = RopeScaling(o);
    config["rope_theta"] = o.rope_theta;
  }
  if (mistral) config["sliding_window"] = o.sliding_window;
  if (qwen) {
    config["use_sliding_window"] = o.sliding_window > 0;
    config["sliding_window"] = o.sliding_window > 0 ? o.sliding_window : 4096;
    config["max_window_layers"] = o.first_windowed;
  }
  config["tie_word_embeddings"] = o.tied_head;
  config[o.new_spelling ? "dtype" : "torch_dtype"] = TypeName(o.type);
  config["transformers_version"] = o.new_spelling ? "5.0.0" : "4.46.0";
  config["use_cache"] = true;
  config["vocab_size"] = o.vocabulary;
  return config;
}

Json HybridConfig(const RandomModelOptions& o) {
  const bool second = o.hybrid_mixer == MixerKind::kMamba2;
  const int inner = o.inner_width > 0 ? o.inner_width : o.query_heads * o.head_width;
  Json ssm;
  ssm["expand"] = 1;
  if (second) {
    ssm["ngroups"] = inner / o.state_size;
    ssm["d_state"] = o.state_size;
    if (o.repeat_before_convolution) ssm["repeat_kv_before_conv"] = true;
    if (o.dt_limit) ssm["dt_limit"] = {Limit(o.dt_limit->first), Limit(o.dt_limit->second)};
  } else {
    if (o.state_size != 16) ssm["d_state"] = o.state_size;
    if (!o.repeat_before_convolution) ssm["repeat_kv_before_conv"] = false;
    if (o.dt_rank > 0) ssm["dt_rank"] = o.dt_rank;
  }
  if (o.convolution_width != 4) ssm["d_conv"] = o.convolution_width;
  if (!o.convolution_bias) ssm["conv_bias"] = false;
  Json config;
  config["d_model"] = o.width;
  config["ssm_cfg"] = ssm;
  config["rms_norm_eps"] = o.norm_epsilon;
  config["vocab_size"] = nullptr;
  // Released files leave it null where `expand` says as much.
  config["d_inner"] = inner == o.width ? Json(nullptr) : Json(inner);
  config["d_xb"] = o.source_width;
  config["intermediate_size"] = o.mlp_width;
  config["hidden_act"] = "silu";
  config["n_layer"] = o.layers;
  config["attn_layers"] = o.attention_layers;
  if (o.dt_bias_applied_once) config["dt_bias_applied"] = 1;
  return config;
}

Json HuggingFaceMamba(const RandomModelOptions& o) {
  const bool second = o.family == Family::kMamba2;
  const int inner = o.inner_width > 0 ? o.inner_width : 2 * o.width;
  Json config;
  config["architectures"] = {second     ? "Mamba2ForCausalLM"
                             : o.falcon ? "FalconMambaForCausalLM"
                                        : "MambaForCausalLM"};
  config["bos_token_id"] = 0;
  config["conv_kernel"] = o.convolution_width;
  config["eos_token_id"] = EosIds(o);
  config["expand"] = inner / o.width;
  config["hidden_act"] = "silu";
  config["hidden_size"] = o.width;
  config["layer_norm_epsilon"] = o.norm_epsilon;
  config["model_type"] = second ? "mamba2" : o.falcon ? "falcon_mamba" : "mamba";
  if (o.falcon) config["mixer_rms_eps"] = 1e-5;
  config["num_hidden_layers"] = o.layers;
  config["residual_in_fp32"] = true;
  config["state_size"] = o.state_size;
  config["use_bias"] = o.projection_bias;
  config["use_conv_bias"] = o.convolution_bias;
  config["vocab_size"] = o.vocabulary;
  config[o.new_spelling ? "dtype" : "torch_dtype"] = TypeName(o.type);
  if (second) {
    config["head_dim"] = o.mamba2_head_width;
    config["n_groups"] = o.groups;
    config["num_heads"] = inner / o.mamba2_head_width;
    config["rms_norm"] = true;
    config["chunk_size"] = 256;
    config["time_step_rank"] = 256;
    config["tie_word_embeddings"] = o.tied_head;
    const std::pair<double, double> limit = o.dt_limit.value_or(std::pair(0.0, HUGE_VAL));
    config["time_step_limit"] = {Limit(limit.first), Limit(limit.second)};
    return config;
  }
  config["intermediate_size"] = inner;
  config["time_step_rank"] = o.dt_rank > 0 ? o.dt_rank : (o.width + 15) / 16;
  if (!o.tied_head) config["tie_word_embeddings"] = false;  // tied is the default and left out
  // What real directories carry along from the layout they were converted from.
  config["d_model"] = o.width;
  config["n_layer"] = o.layers;
  config["rms_norm"] = true;
  config["ssm_cfg"] = Json::object();
  config["pad_vocab_size_multiple"] = 8;
  return config;
}

Json StateSpacesConfig(const RandomModelOptions& o) {
  const bool second = o.family == Family::kMamba2;
  const int inner = o.inner_width > 0 ? o.inner_width : 2 * o.width;
  Json ssm = Json::object();
  if (second) ssm["layer"] = "Mamba2";
  if (inner != 2 * o.width) ssm["expand"] = inner / o.width;
  if (o.state_size != (second ? 128 : 16)) ssm["d_state"] = o.state_size;
  if (o.convolution_width != 4) ssm["d_conv"] = o.convolution_width;
  if (!o.convolution_bias) ssm["conv_bias"] = false;
  if (o.dt_rank > 0) ssm["dt_rank"] = o.dt_rank;
  if (second && o.mamba2_head_width != 64) ssm["headdim"] = o.mamba2_head_width;
  if (second && o.groups != 1) ssm["ngroups"] = o.groups;
  if (o.dt_limit) ssm["dt_limit"] = {Limit(o.dt_limit->first), Limit(o.dt_limit->second)};
  Json config;
  config["d_model"] = o.width;
  if (second) config["d_intermediate"] = 0;
  config["n_layer"] = o.layers;
  config["vocab_size"] = o.vocabulary;
  config["ssm_cfg"] = ssm;
  if (second) {
    config["attn_layer_idx"] = Json::array();
    config["attn_cfg"] = Json::object();
  }
  config["rms_norm"] = true;
  config["residual_in_fp32"] = true;
  config["fused_add_norm"] = true;
  config["pad_vocab_size_multiple"] = o.pad_vocabulary_multiple;
  if (second || !o.tied_head)
    config["tie_embeddings"] = o.tied_head;  // old files do not know it: tied
  return config;
}

}  // namespace

ConfigTexts WriteConfigTexts(const RandomModelOptions& o) {
  ConfigTexts texts;
  if (o.family == Family::kLlama || o.family == Family::kHybrid) {
    texts.config = Text(LlamaConfig(o));
    if (o.family == Family::kHybrid) texts.mamba_config = Text(HybridConfig(o));
  } else if (o.layout == Layout::kStateSpaces) {
    texts.config = Text(StateSpacesConfig(o));
    return texts;  // these have no generation_config.json
  } else {
    texts.config = Text(HuggingFaceMamba(o));
  }
  Json generation;
  generation["_from_model_config"] = true;
  generation["bos_token_id"] = 1;
  generation["eos_token_id"] = EosIds(o);
  generation["transformers_version"] = "4.46.0";
  texts.generation_config = Text(generation);
  return texts;
}

}  // namespace mambad::support
