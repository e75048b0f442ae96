// config.json of LlamaForCausalLM and MistralForCausalLM.

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_sections.h"
#include "engine/checkpoint/error_text.h"

namespace mambad::checkpoint {
namespace {

void ReadScaling(const JsonFields& fields, RopeConfig& rope) {
  const std::string kind =
      fields.Text(fields.Has("rope_type") ? "rope_type" : "type").value_or("default");
  if (kind == "default") return;
  if (kind != "linear" && kind != "llama3") {
    return fields.Refuse(absl::StrCat("rope_type ", Quoted(kind)));
  }
  rope.factor = fields.RequiredNumber("factor", 1, 1e6);
  rope.scaling = RopeScalingKind::kLinear;
  if (kind == "linear") return;
  rope.scaling = RopeScalingKind::kLlama3;
  rope.low_frequency_factor = fields.RequiredNumber("low_freq_factor", 1e-6, 1e6);
  rope.high_frequency_factor = fields.RequiredNumber("high_freq_factor", 1e-6, 1e6);
  rope.original_context = fields.Required("original_max_position_embeddings", 1, kMaxContext);
  if (fields.ok() && rope.high_frequency_factor <= rope.low_frequency_factor) {
    fields.FailValue("high_freq_factor", "a number above low_freq_factor");
  }
}

// Old files have rope_theta and rope_scaling, new ones rope_parameters with the theta inside.
void ReadRope(const JsonFields& fields, AttentionConfig& attention) {
  RopeConfig& rope = attention.rope;
  rope.theta = fields.Number("rope_theta", 1, kMaxTheta).value_or(10000.0);
  const JsonFields inner =
      fields.Object(fields.Has("rope_parameters") ? "rope_parameters" : "rope_scaling");
  rope.theta = inner.Number("rope_theta", 1, kMaxTheta).value_or(rope.theta);
  for (const JsonFields& place : {fields, inner}) {
    if (place.Number("partial_rotary_factor", 0, 1).value_or(1) != 1) {
      place.Refuse("partial_rotary_factor");
    }
  }
  ReadScaling(inner, rope);
  attention.fused_rope = RopeConfig();
  attention.fused_rope.theta = rope.theta;  // these layers were trained without scaling
}

void ReadAttention(const JsonFields& fields, bool mistral, ModelConfig& config) {
  AttentionConfig& attention = config.attention;
  attention.query_heads = static_cast<int>(fields.Required("num_attention_heads", 1, kMaxHeads));
  attention.key_value_heads =
      static_cast<int>(fields.Integer("num_key_value_heads", 1, kMaxHeads, attention.query_heads));
  if (!fields.Has("head_dim") && config.width % attention.query_heads != 0) {
    fields.FailValue("num_attention_heads",
                     absl::StrCat("a divisor of hidden_size ", config.width, " or a head_dim"));
  }
  attention.head_width = static_cast<int>(fields.Integer(
      "head_dim", 1, kMaxHeadWidth, std::max(1, config.width / attention.query_heads)));
  // Llama's attention knows no window, whatever its file says.
  if (mistral && fields.Flag("use_sliding_window").value_or(true)) {
    attention.sliding_window =
        static_cast<int>(fields.Integer("sliding_window", 1, int64_t{1} << 30, 0));
  }
  ReadRope(fields, attention);
}

}  // namespace

void ReadLlamaConfig(const JsonFields& fields, const TensorShapes& tensors, ModelConfig& config) {
  config.family = Family::kLlama;
  config.layout = Layout::kHuggingFace;
  config.width = static_cast<int>(fields.Required("hidden_size", 1, kMaxWidth));
  config.mlp_width = static_cast<int>(fields.Required("intermediate_size", 1, kMaxWidth));
  SetLayers(fields.Required("num_hidden_layers", 1, kMaxLayers), MixerKind::kAttention, config);
  ReadVocabulary(fields, config);
  const bool mistral = fields.Text("model_type").value_or("") == "mistral";
  config.norm_epsilon = fields.Number("rms_norm_eps", 0, 1).value_or(1e-6);
  config.tied_head = ReadTiedHead(fields, "tie_word_embeddings", false, tensors);
  config.context_length =
      fields.Integer("max_position_embeddings", 1, kMaxContext, mistral ? 131072 : 2048);
  RefuseIf(fields, "attention_bias", true);
  RefuseIf(fields, "mlp_bias", true);
  RefuseActivation(fields);
  ReadAttention(fields, mistral, config);
}

}  // namespace mambad::checkpoint
