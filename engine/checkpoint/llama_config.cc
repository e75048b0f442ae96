// config.json of LlamaForCausalLM and what differs from it by a bias, a norm or a window: Mistral,
// Qwen2, Qwen3.

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_sections.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/rope_frequencies.h"

namespace mambad::checkpoint {
namespace {

void ReadYarn(const JsonFields& fields, RopeConfig& rope) {
  rope.scaling = RopeScalingKind::kYarn;
  // A 0 means what an absent number means.
  const auto given = [&](const char* key, double absent) {
    const double value = fields.Number(key, 0, 1e6).value_or(0);
    return value > 0 ? value : absent;
  };
  rope.beta_fast = given("beta_fast", 32);
  rope.beta_slow = given("beta_slow", 1);
  rope.truncate = fields.Flag("truncate").value_or(true);
  if (fields.ok() && rope.beta_fast < rope.beta_slow) {
    fields.FailValue("beta_fast", "a number not below beta_slow");
  }
  const double multiplier = given("mscale", 0), all = given("mscale_all_dim", 0);
  rope.attention_factor = multiplier > 0 && all > 0 ? YarnAttentionFactor(rope.factor, multiplier) /
                                                          YarnAttentionFactor(rope.factor, all)
                                                    : YarnAttentionFactor(rope.factor, 1);
  rope.attention_factor =
      fields.Number("attention_factor", 1e-3, 1e3).value_or(rope.attention_factor);
}

void ReadLlama3(const JsonFields& fields, RopeConfig& rope) {
  rope.scaling = RopeScalingKind::kLlama3;
  rope.low_frequency_factor = fields.RequiredNumber("low_freq_factor", 1e-6, 1e6);
  rope.high_frequency_factor = fields.RequiredNumber("high_freq_factor", 1e-6, 1e6);
  rope.original_context = fields.Required("original_max_position_embeddings", 1, kMaxContext);
  if (fields.ok() && rope.high_frequency_factor <= rope.low_frequency_factor) {
    fields.FailValue("high_freq_factor", "a number above low_freq_factor");
  }
}

// `context`: max_position_embeddings; becomes what the scaling reaches.
void ReadScaling(const JsonFields& fields, RopeConfig& rope, int64_t& context) {
  const std::string kind =
      fields.Text(fields.Has("rope_type") ? "rope_type" : "type").value_or("default");
  if (kind == "default") return;
  if (kind != "linear" && kind != "llama3" && kind != "dynamic" && kind != "yarn") {
    return fields.Refuse(absl::StrCat("rope_type ", Quoted(kind),
                                      " (default, linear, llama3, dynamic and yarn are)"));
  }
  const bool yarn = kind == "yarn";
  if (yarn) {
    rope.original_context =
        fields.Integer("original_max_position_embeddings", 1, kMaxContext, context);
  }
  if (yarn && !fields.Has("factor")) {
    rope.factor = std::max(1.0, static_cast<double>(context) / rope.original_context);
  } else {
    rope.factor = fields.RequiredNumber("factor", 1, 1e6);
  }
  rope.scaling = RopeScalingKind::kLinear;
  if (kind == "llama3") return ReadLlama3(fields, rope);
  if (kind == "dynamic") {
    rope.scaling = RopeScalingKind::kDynamic;
    rope.original_context = context;
  }
  if (yarn) ReadYarn(fields, rope);
  if (kind == "linear") return;
  const double reached = std::floor(rope.factor * static_cast<double>(rope.original_context));
  context = std::max(context, static_cast<int64_t>(std::min(reached, double{kMaxContext})));
}

// Newer files may hold an object for each kind of layer in rope_parameters.
void RefuseRopeByLayer(const JsonFields& fields) {
  const nlohmann::json* parameters = fields.Find("rope_parameters");
  if (parameters == nullptr || !parameters->is_object()) return;
  for (const auto& [key, value] : parameters->items()) {
    if (!value.is_object()) continue;
    return fields.Refuse(
        absl::StrCat("rope_parameters with an object of its own for ", Quoted(key)));
  }
}

// Old files have rope_theta and rope_scaling, new ones rope_parameters with the theta inside.
void ReadRope(const JsonFields& fields, AttentionConfig& attention, int64_t& context) {
  RopeConfig& rope = attention.rope;
  rope.theta = fields.Number("rope_theta", 1, kMaxTheta).value_or(10000.0);
  RefuseRopeByLayer(fields);
  const JsonFields inner =
      fields.Object(fields.Has("rope_parameters") ? "rope_parameters" : "rope_scaling");
  rope.theta = inner.Number("rope_theta", 1, kMaxTheta).value_or(rope.theta);
  for (const JsonFields& place : {fields, inner}) {
    if (place.Number("partial_rotary_factor", 0, 1).value_or(1) != 1) {
      place.Refuse("partial_rotary_factor");
    }
  }
  ReadScaling(inner, rope, context);
  attention.fused_rope = RopeConfig();
  attention.fused_rope.theta = rope.theta;  // these layers were trained without scaling
}

// Which layers keep to the window of Qwen2 and Qwen3: those from max_window_layers up, unless
// layer_types names them.
void ReadWindowedLayers(const JsonFields& fields, ModelConfig& config) {
  const int64_t first = fields.Integer("max_window_layers", 0, int64_t{1} << 30, 28);
  config.windowed.assign(config.layers, false);
  for (int layer = 0; layer < config.layers; ++layer) config.windowed[layer] = layer >= first;
  const nlohmann::json* types = fields.Find("layer_types");
  if (types == nullptr) return;
  const std::string expected =
      absl::StrCat("a list of ", config.layers, " of full_attention and sliding_attention");
  if (!types->is_array() || static_cast<int64_t>(types->size()) != config.layers) {
    return fields.FailValue("layer_types", expected);
  }
  for (int layer = 0; layer < config.layers; ++layer) {
    const nlohmann::json& type = (*types)[layer];
    if (type != "full_attention" && type != "sliding_attention") {
      return fields.FailValue("layer_types", expected);
    }
    config.windowed[layer] = type == "sliding_attention";
  }
}

enum class Kind { kLlama, kMistral, kQwen2, kQwen3 };

void ReadWindow(const JsonFields& fields, Kind kind, ModelConfig& config) {
  if (kind == Kind::kLlama) return;  // its attention knows no window, whatever its file says
  const bool mistral = kind == Kind::kMistral;
  if (!fields.Flag("use_sliding_window").value_or(mistral)) return;
  const int64_t absent = fields.IsNull("sliding_window") ? 0 : 4096;  // as the classes have it
  config.attention.sliding_window =
      static_cast<int>(fields.Integer("sliding_window", 1, int64_t{1} << 30, absent));
  if (!mistral && config.attention.sliding_window > 0) ReadWindowedLayers(fields, config);
}

// Which projections have a bias, and whether heads are normed.
void ReadVariant(const JsonFields& fields, Kind kind, ModelConfig& config) {
  AttentionConfig& attention = config.attention;
  attention.head_norm = kind == Kind::kQwen3;
  if (kind == Kind::kQwen2) {
    attention.bias = true;
  } else if (kind == Kind::kMistral) {
    RefuseIf(fields, "attention_bias", true);
  } else {
    attention.bias = attention.output_bias = fields.Flag("attention_bias").value_or(false);
  }
  if (kind == Kind::kLlama) {
    config.mlp_bias = fields.Flag("mlp_bias").value_or(false);
  } else {
    RefuseIf(fields, "mlp_bias", true);
  }
}

// As the classes have it: null means one for each head, silence some number of their own.
int64_t AbsentKeyValueHeads(const JsonFields& fields, Kind kind, const AttentionConfig& attention) {
  if (kind == Kind::kLlama || fields.IsNull("num_key_value_heads")) return attention.query_heads;
  return kind == Kind::kMistral ? 8 : 32;
}

void ReadAttention(const JsonFields& fields, Kind kind, ModelConfig& config) {
  AttentionConfig& attention = config.attention;
  attention.query_heads = static_cast<int>(fields.Required("num_attention_heads", 1, kMaxHeads));
  attention.key_value_heads = static_cast<int>(fields.Integer(
      "num_key_value_heads", 1, kMaxHeads, AbsentKeyValueHeads(fields, kind, attention)));
  if (kind != Kind::kQwen3 && !fields.Has("head_dim") &&
      config.width % attention.query_heads != 0) {
    fields.FailValue("num_attention_heads",
                     absl::StrCat("a divisor of hidden_size ", config.width, " or a head_dim"));
  }
  const int absent = kind == Kind::kQwen3 ? 128 : std::max(1, config.width / attention.query_heads);
  attention.head_width = static_cast<int>(fields.Integer("head_dim", 1, kMaxHeadWidth, absent));
  ReadWindow(fields, kind, config);
  ReadVariant(fields, kind, config);
  ReadRope(fields, attention, config.context_length);
}

Kind KindOf(const JsonFields& fields) {
  const std::string type = fields.Text("model_type").value_or("");
  if (type == "mistral") return Kind::kMistral;
  if (type == "qwen2") return Kind::kQwen2;
  return type == "qwen3" ? Kind::kQwen3 : Kind::kLlama;
}

// What the classes take for max_position_embeddings where a file is silent.
int64_t AbsentContext(Kind kind) {
  if (kind == Kind::kLlama) return 2048;
  return kind == Kind::kMistral ? 131072 : 32768;
}

}  // namespace

void ReadLlamaConfig(const JsonFields& fields, const TensorShapes& tensors, ModelConfig& config) {
  config.family = Family::kLlama;
  config.layout = Layout::kHuggingFace;
  config.width = static_cast<int>(fields.Required("hidden_size", 1, kMaxWidth));
  config.mlp_width = static_cast<int>(fields.Required("intermediate_size", 1, kMaxWidth));
  SetLayers(fields.Required("num_hidden_layers", 1, kMaxLayers), MixerKind::kAttention, config);
  ReadVocabulary(fields, config);
  const Kind kind = KindOf(fields);
  config.norm_epsilon = fields.Number("rms_norm_eps", 0, 1).value_or(1e-6);
  config.tied_head = ReadTiedHead(fields, "tie_word_embeddings", false, tensors);
  config.context_length =
      fields.Integer("max_position_embeddings", 1, kMaxContext, AbsentContext(kind));
  RefuseActivation(fields);
  ReadAttention(fields, kind, config);
}

}  // namespace mambad::checkpoint
