// mamba_config.json of MambaInLlama models.

#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_sections.h"

namespace mambad::checkpoint {
namespace {

// The shape of any layer's tensor of this name; empty: none has it.
std::vector<int64_t> ShapeInAnyLayer(const TensorShapes& tensors, MixerKind kind,
                                     const ModelConfig& config, const std::string& name) {
  for (int layer = 0; layer < config.layers; ++layer) {
    if (config.mixers[layer] != kind) continue;
    const auto it = tensors.find(absl::StrCat("model.layers.", layer, ".mamba.", name));
    if (it != tensors.end()) return it->second;
  }
  return {};
}

// What both files say must agree; blocks are built from mamba_config.json in one half of the layers
// and from config.json in the other.
void CheckAgreement(const JsonFields& fields, const ModelConfig& config) {
  const struct {
    const char* key;
    int64_t expected;
  } numbers[] = {{"d_model", config.width},
                 {"n_layer", config.layers},
                 {"intermediate_size", config.mlp_width}};
  for (const auto& [key, expected] : numbers) {
    if (fields.Integer(key, 0, int64_t{1} << 40, expected) != expected) {
      fields.FailValue(key, absl::StrCat(expected, ", as in config.json,"));
    }
  }
  const double epsilon = fields.Number("rms_norm_eps", 0, 1).value_or(1e-5);
  if (epsilon != config.norm_epsilon) {
    fields.Refuse(
        absl::StrCat("rms_norm_eps ", epsilon, " beside config.json's ", config.norm_epsilon));
  }
  RefuseActivation(fields);
}

// Which layers keep their attention.
std::vector<bool> ReadAttentionLayers(const JsonFields& fields, int layers) {
  std::vector<bool> keeps(layers, false);
  const nlohmann::json* list = fields.Find("attn_layers");
  if (list == nullptr) return keeps;
  const std::string expected = absl::StrCat("a list of layers from 0 to ", layers - 1);
  if (!list->is_array()) {
    fields.FailValue("attn_layers", expected);
    return keeps;
  }
  for (const nlohmann::json& layer : *list) {
    if (!layer.is_number_integer() || layer.get<int64_t>() < 0 || layer.get<int64_t>() >= layers) {
      fields.FailValue("attn_layers", expected);
      return keeps;
    }
    keeps[layer.get<int64_t>()] = true;
  }
  return keeps;
}

// Only the tensors' names tell which Mamba a layer has, and what is fused.
void ReadMixers(const JsonFields& fields, const TensorShapes& tensors, ModelConfig& config) {
  const std::vector<bool> keeps_attention = ReadAttentionLayers(fields, config.layers);
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    if (keeps_attention[layer]) {
      config.fused_attention[layer] = tensors.contains(prefix + "mha.in_proj.weight");
      const AttentionConfig& attention = config.attention;
      if (config.fused_attention[layer] &&
          (attention.bias || attention.output_bias || attention.head_norm)) {
        fields.Refuse("mha.in_proj beside biases or norms of attention");
      }
    } else if (tensors.contains(prefix + "mamba.dt_bias") ||
               tensors.contains(prefix + "mamba.norm.weight")) {
      config.mixers[layer] = MixerKind::kMamba2;
    } else {
      config.mixers[layer] = MixerKind::kMamba;
      config.fused_mamba[layer] = tensors.contains(prefix + "mamba.in_proj.weight");
    }
  }
}

void ReadHybridMamba(const JsonFields& fields, const JsonFields& ssm, const TensorShapes& tensors,
                     int64_t inner, int64_t source, ModelConfig& config) {
  MambaConfig& mamba = config.mamba;
  mamba.inner_width = static_cast<int>(inner);
  mamba.source_width = static_cast<int>(source);
  mamba.state_size = static_cast<int>(ssm.Integer("d_state", 1, kMaxState, 16));
  mamba.groups = static_cast<int>(inner / mamba.state_size);
  mamba.dt_rank = ReadDtRank(ssm, "dt_rank", config);
  mamba.convolution_width = static_cast<int>(ssm.Integer("d_conv", 1, kMaxTaps, 4));
  mamba.convolution_bias = ssm.Flag("conv_bias").value_or(true);
  // Where the configuration is silent, the number of channels tells.
  const auto channels = ShapeInAnyLayer(tensors, MixerKind::kMamba, config, "conv1d.weight");
  const bool narrow = !channels.empty() && channels[0] == source && source != inner;
  mamba.repeat_before_convolution = ssm.Flag("repeat_kv_before_conv").value_or(!narrow);
  mamba.dt_bias_applied_twice = fields.Integer("dt_bias_applied", 1, 2, 2) == 2;
}

// P = N: a head is as wide as its state. d_state, or else ngroups, or else A_log's length tells.
int64_t ReadHybridState(const JsonFields& ssm, const TensorShapes& tensors, int64_t inner,
                        const ModelConfig& config) {
  const auto heads = ShapeInAnyLayer(tensors, MixerKind::kMamba2, config, "A_log");
  int64_t absent = 128;
  if (heads.size() == 1 && heads[0] > 0 && inner % heads[0] == 0) absent = inner / heads[0];
  const std::optional<int64_t> groups = ssm.Integer("ngroups", 1, kMaxHeads);
  if (groups.has_value() && inner % *groups == 0) absent = inner / *groups;
  const int64_t state = ssm.Integer("d_state", 1, kMaxState, absent);
  if (groups.has_value() && *groups * state != inner) {
    ssm.Fail(absl::StrCat("ngroups ", *groups, " x d_state ", state, " found, d_inner = ", inner,
                          " expected"));
  }
  return state;
}

void ReadHybridMamba2(const JsonFields& ssm, const TensorShapes& tensors, int64_t inner,
                      int64_t source, ModelConfig& config) {
  Mamba2Config& mamba = config.mamba2;
  mamba.inner_width = static_cast<int>(inner);
  mamba.source_width = static_cast<int>(source);
  mamba.state_size = static_cast<int>(ReadHybridState(ssm, tensors, inner, config));
  mamba.heads = mamba.groups = static_cast<int>(inner / mamba.state_size);
  mamba.convolution_width = static_cast<int>(ssm.Integer("d_conv", 1, kMaxTaps, 4));
  mamba.convolution_bias = ssm.Flag("conv_bias").value_or(true);
  const auto channels = ShapeInAnyLayer(tensors, MixerKind::kMamba2, config, "conv1d.weight");
  const bool wide = !channels.empty() && channels[0] == 3 * inner && source != inner;
  mamba.repeat_before_convolution = ssm.Flag("repeat_kv_before_conv").value_or(wide);
  ReadTimeStepLimit(ssm, ssm.Has("dt_limit") ? "dt_limit" : "time_step_limit", mamba);
}

}  // namespace

void ReadHybridConfig(const JsonFields& fields, const TensorShapes& tensors, ModelConfig& config) {
  config.family = Family::kHybrid;
  config.layout = Layout::kMambaInLlama;
  const JsonFields ssm = fields.Object("ssm_cfg");
  for (const char* key :
       {"norm_before_gate", "D_has_hdim", "bias", "proj_x_bias", "proj_z_bias", "out_proj_bias"}) {
    RefuseIf(ssm, key, true);
  }
  RefuseIf(ssm, "rmsnorm", false);
  if (ssm.Has("d_ssm")) ssm.Refuse("d_ssm");
  CheckAgreement(fields, config);
  ReadMixers(fields, tensors, config);
  if (!config.HasMixer(MixerKind::kAttention)) config.context_length = 0;  // nothing to outgrow
  const int64_t inner = fields.Has("d_inner") ? fields.Integer("d_inner", 1, kMaxWidth, 1)
                                              : ReadExpandedWidth(ssm, config);
  const int64_t source = fields.Required("d_xb", 1, kMaxWidth);
  if (config.HasMixer(MixerKind::kMamba)) {
    ReadHybridMamba(fields, ssm, tensors, inner, source, config);
  }
  if (config.HasMixer(MixerKind::kMamba2)) ReadHybridMamba2(ssm, tensors, inner, source, config);
}

}  // namespace mambad::checkpoint
