// config.json of pure Mamba and Mamba-2 models, in the Hugging Face and the state-spaces layout.

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_sections.h"
#include "engine/checkpoint/error_text.h"

namespace mambad::checkpoint {

int64_t ReadExpandedWidth(const JsonFields& fields, const ModelConfig& config) {
  const double expand = fields.Number("expand", 0.01, 64).value_or(2);
  const int64_t expanded = static_cast<int64_t>(std::floor(expand * config.width));
  if (expanded < 1 || expanded > kMaxWidth) {
    fields.Fail(absl::StrCat("expand: ", expand, " found, an inner width from 1 to ", kMaxWidth,
                             " expected with width ", config.width));
    return 1;
  }
  return expanded;
}

int ReadDtRank(const JsonFields& fields, const char* key, const ModelConfig& config) {
  const nlohmann::json* value = fields.Find(key);
  if (value == nullptr || *value == "auto") return (config.width + 15) / 16;
  return static_cast<int>(fields.Integer(key, 1, kMaxWidth, 1));
}

void ReadTimeStepLimit(const JsonFields& fields, const char* key, Mamba2Config& mamba) {
  const nlohmann::json* limit = fields.Find(key);
  if (limit == nullptr) return;
  const bool two =
      limit->is_array() && limit->size() == 2 && (*limit)[0].is_number() && (*limit)[1].is_number();
  const double low = two ? (*limit)[0].get<double>() : -1;
  const double high = two ? (*limit)[1].get<double>() : -1;
  // Infinity is a fine upper limit, a lower one it is not.
  if (!two || !(low >= 0 && low <= high && std::isfinite(low))) {
    return fields.FailValue(key, "two numbers from 0 up, in order,");
  }
  mamba.dt_minimum = low;
  mamba.dt_maximum = high;
}

// ---- Hugging Face -----------------------------------------------------------------------------

namespace {

void ReadHuggingFaceTrunk(const JsonFields& fields, MixerKind kind, ModelConfig& config) {
  config.layout = Layout::kHuggingFace;
  config.width = static_cast<int>(fields.Required("hidden_size", 1, kMaxWidth));
  SetLayers(fields.Required("num_hidden_layers", 1, kMaxLayers), kind, config);
  ReadVocabulary(fields, config);
  config.norm_epsilon = fields.Number("layer_norm_epsilon", 0, 1).value_or(1e-5);
  RefuseIf(fields, "rms_norm", false);
  RefuseActivation(fields);
}

}  // namespace

// Directories converted from the state-spaces layout keep its keys (ssm_cfg, d_model, n_layer,
// ...): leftovers that say nothing. Falcon Mamba is Mamba with norms on what x_proj gives.
void ReadMambaConfig(const JsonFields& fields, const TensorShapes& tensors, ModelConfig& config) {
  config.family = Family::kMamba;
  ReadHuggingFaceTrunk(fields, MixerKind::kMamba, config);
  config.tied_head = ReadTiedHead(fields, "tie_word_embeddings", true, tensors);
  MambaConfig& mamba = config.mamba;
  mamba.inner_width = static_cast<int>(fields.Has("intermediate_size")
                                           ? fields.Integer("intermediate_size", 1, kMaxWidth, 1)
                                           : ReadExpandedWidth(fields, config));
  mamba.state_size = static_cast<int>(fields.Integer("state_size", 1, kMaxState, 16));
  mamba.dt_rank = ReadDtRank(fields, "time_step_rank", config);
  mamba.convolution_width = static_cast<int>(fields.Integer("conv_kernel", 1, kMaxTaps, 4));
  mamba.convolution_bias = fields.Flag("use_conv_bias").value_or(true);
  mamba.projection_bias = fields.Flag("use_bias").value_or(false);
  mamba.selection_norm = fields.Text("model_type").value_or("") == "falcon_mamba";
  mamba.selection_norm_epsilon = fields.Number("mixer_rms_eps", 0, 1).value_or(1e-6);
}

// "norm_before_gate" stands in released files of this layout (Codestral's) and is not looked at:
// the norm comes after the gate.
void ReadMamba2Config(const JsonFields& fields, const TensorShapes& tensors, ModelConfig& config) {
  config.family = Family::kMamba2;
  ReadHuggingFaceTrunk(fields, MixerKind::kMamba2, config);
  config.tied_head = ReadTiedHead(fields, "tie_word_embeddings", false, tensors);
  Mamba2Config& mamba = config.mamba2;
  mamba.inner_width = static_cast<int>(ReadExpandedWidth(fields, config));
  mamba.state_size = static_cast<int>(fields.Integer("state_size", 1, kMaxState, 128));
  mamba.heads = static_cast<int>(fields.Integer("num_heads", 1, kMaxHeads, 128));
  const int64_t head_width = fields.Integer("head_dim", 1, kMaxWidth, 64);
  if (fields.ok() && head_width * mamba.heads != mamba.inner_width) {
    fields.Fail(absl::StrCat("num_heads ", mamba.heads, " x head_dim ", head_width,
                             " found, expand x hidden_size = ", mamba.inner_width, " expected"));
  }
  mamba.groups = static_cast<int>(fields.Integer("n_groups", 1, kMaxHeads, 8));
  mamba.convolution_width = static_cast<int>(fields.Integer("conv_kernel", 1, kMaxTaps, 4));
  mamba.convolution_bias = fields.Flag("use_conv_bias").value_or(true);
  mamba.projection_bias = fields.Flag("use_bias").value_or(false);
  mamba.norm_epsilon = config.norm_epsilon;
  ReadTimeStepLimit(fields, "time_step_limit", mamba);
}

// ---- state-spaces -----------------------------------------------------------------------------

namespace {

void RefuseVariants(const JsonFields& fields, const JsonFields& ssm) {
  RefuseIf(fields, "rms_norm", false);
  if (fields.Integer("d_intermediate", 0, kMaxWidth, 0) > 0)
    fields.Refuse("d_intermediate above 0");
  const nlohmann::json* attention = fields.Find("attn_layer_idx");
  if (attention != nullptr && !(attention->is_array() && attention->empty())) {
    fields.Refuse("attn_layer_idx");
  }
  for (const char* key : {"norm_before_gate", "D_has_hdim", "bias"}) RefuseIf(ssm, key, true);
  RefuseIf(ssm, "rmsnorm", false);
  if (ssm.Has("d_ssm")) ssm.Refuse("d_ssm");
}

void ReadStateSpacesMamba2(const JsonFields& ssm, ModelConfig& config) {
  Mamba2Config& mamba = config.mamba2;
  mamba.inner_width = static_cast<int>(ReadExpandedWidth(ssm, config));
  mamba.state_size = static_cast<int>(ssm.Integer("d_state", 1, kMaxState, 128));
  const int64_t head_width = ssm.Integer("headdim", 1, kMaxWidth, 64);
  if (mamba.inner_width % head_width != 0) {
    ssm.Fail(absl::StrCat("headdim: ", head_width, " found, a divisor of expand x d_model = ",
                          mamba.inner_width, " expected"));
  }
  mamba.heads = static_cast<int>(mamba.inner_width / head_width);
  mamba.groups = static_cast<int>(ssm.Integer("ngroups", 1, kMaxHeads, 1));
  mamba.convolution_width = static_cast<int>(ssm.Integer("d_conv", 1, kMaxTaps, 4));
  mamba.convolution_bias = ssm.Flag("conv_bias").value_or(true);
  ReadTimeStepLimit(ssm, "dt_limit", mamba);
}

void ReadStateSpacesMamba(const JsonFields& ssm, ModelConfig& config) {
  MambaConfig& mamba = config.mamba;
  mamba.inner_width = static_cast<int>(ReadExpandedWidth(ssm, config));
  mamba.state_size = static_cast<int>(ssm.Integer("d_state", 1, kMaxState, 16));
  mamba.dt_rank = ReadDtRank(ssm, "dt_rank", config);
  mamba.convolution_width = static_cast<int>(ssm.Integer("d_conv", 1, kMaxTaps, 4));
  mamba.convolution_bias = ssm.Flag("conv_bias").value_or(true);
}

}  // namespace

void ReadStateSpacesConfig(const JsonFields& fields, const TensorShapes& tensors,
                           ModelConfig& config) {
  config.layout = Layout::kStateSpaces;
  const JsonFields ssm = fields.Object("ssm_cfg");
  const std::string layer = ssm.Text("layer").value_or("Mamba1");
  if (layer != "Mamba1" && layer != "Mamba2") {
    return ssm.Refuse(absl::StrCat("layer ", Quoted(layer)));
  }
  RefuseVariants(fields, ssm);
  const bool second = layer == "Mamba2";
  config.family = second ? Family::kMamba2 : Family::kMamba;
  config.width = static_cast<int>(fields.Required("d_model", 1, kMaxWidth));
  SetLayers(fields.Required("n_layer", 1, kMaxLayers),
            second ? MixerKind::kMamba2 : MixerKind::kMamba, config);
  ReadVocabulary(fields, config);
  const int64_t multiple = fields.Integer("pad_vocab_size_multiple", 1, 1 << 16, 8);
  config.padded_vocabulary =
      static_cast<int>((config.vocabulary + multiple - 1) / multiple * multiple);
  config.tied_head = ReadTiedHead(fields, "tie_embeddings", true, tensors);
  config.norm_epsilon = 1e-5;  // fixed in this layout
  if (second) {
    ReadStateSpacesMamba2(ssm, config);
  } else {
    ReadStateSpacesMamba(ssm, config);
  }
}

}  // namespace mambad::checkpoint
