#include "engine/checkpoint/model_config_reader.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/json_fields.h"

namespace mambad::checkpoint {
namespace {

constexpr int64_t kMaxWidth = 1 << 17, kMaxLayers = 1024, kMaxVocabulary = 1 << 22, kMaxState = 1024, kMaxHeads = 4096;
constexpr int64_t kMaxContext = int64_t{1} << 32;
constexpr double kMaxTheta = 1e12, kInfinity = std::numeric_limits<double>::infinity();

int Ceil(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

class Reader {
 public:
  Reader(const ConfigFiles& files, const TensorShapes& tensors) : files_(files), tensors_(tensors) {}

  absl::StatusOr<ModelConfig> Read() {
    const JsonFields fields = Fields("config.json", files_.config);
    const std::string type = fields.Text("model_type").value_or("");
    if (type == "llama" || type == "mistral") {
      ReadLlama(fields);
      if (!files_.mamba_config.is_null()) ReadHybrid();
    } else if (type == "mamba") {
      ReadMamba(fields);
    } else if (type == "mamba2") {
      ReadMamba2(fields);
    } else if (type.empty() && fields.Has("d_model") && fields.Has("n_layer")) {
      ReadStateSpaces(fields);
    } else {
      fields.Fail(absl::StrCat("model_type: \"", type.substr(0, 60),
                               "\" found; llama, mistral, mamba, mamba2 or the state-spaces layout expected"));
    }
    ReadEnds(fields);
    ReadGeneration();
    if (!status_.ok()) return status_;
    if (absl::Status checked = CheckModelConfig(absl::StrCat(files_.directory, "/config.json"), config_); !checked.ok()) {
      return checked;
    }
    return config_;
  }

 private:
  JsonFields Fields(const std::string& file, const nlohmann::json& object) {
    return JsonFields(absl::StrCat(files_.directory, "/", file), object, &status_);
  }
  bool HasTensor(const std::string& name) const { return tensors_.contains(name); }

  void SetLayers(int64_t layers, MixerKind kind) {
    config_.layers = static_cast<int>(layers);
    config_.mixers.assign(layers, kind);
    config_.fused_attention.assign(layers, false);
    config_.fused_mamba.assign(layers, false);
  }

  void ReadVocabulary(const JsonFields& fields) {
    config_.vocabulary = config_.padded_vocabulary = static_cast<int>(fields.Required("vocab_size", 1, kMaxVocabulary));
  }

  // ---- Llama ----------------------------------------------------------------------------------------------------------

  void ReadLlama(const JsonFields& fields) {
    config_.family = Family::kLlama;
    config_.layout = Layout::kHuggingFace;
    config_.width = static_cast<int>(fields.Required("hidden_size", 1, kMaxWidth));
    config_.mlp_width = static_cast<int>(fields.Required("intermediate_size", 1, kMaxWidth));
    SetLayers(fields.Required("num_hidden_layers", 1, kMaxLayers), MixerKind::kAttention);
    ReadVocabulary(fields);
    config_.norm_epsilon = fields.Number("rms_norm_eps", 0, 1).value_or(1e-6);
    config_.tied_head = fields.Flag("tie_word_embeddings").value_or(false);
    config_.context_length = fields.Integer("max_position_embeddings", 1, kMaxContext, 2048);
    if (fields.Flag("attention_bias").value_or(false)) fields.Refuse("attention_bias");
    if (fields.Flag("mlp_bias").value_or(false)) fields.Refuse("mlp_bias");
    const std::string activation = fields.Text("hidden_act").value_or("silu");
    if (activation != "silu") fields.Refuse(absl::StrCat("hidden_act \"", activation.substr(0, 60), "\""));

    AttentionConfig& attention = config_.attention;
    attention.query_heads = static_cast<int>(fields.Required("num_attention_heads", 1, kMaxHeads));
    attention.key_value_heads =
        static_cast<int>(fields.Integer("num_key_value_heads", 1, kMaxHeads, attention.query_heads));
    attention.head_width =
        static_cast<int>(fields.Integer("head_dim", 1, 1024, std::max(1, config_.width / attention.query_heads)));
    attention.sliding_window = static_cast<int>(fields.Integer("sliding_window", 0, 1 << 30, 0));
    if (!fields.Flag("use_sliding_window").value_or(true)) attention.sliding_window = 0;
    ReadRope(fields);
  }

  // Old files: rope_theta and rope_scaling; new ones: rope_parameters with the theta inside.
  void ReadRope(const JsonFields& fields) {
    RopeConfig& rope = config_.attention.rope;
    const bool has_new = fields.Has("rope_parameters");
    const char* key = has_new ? "rope_parameters" : "rope_scaling";
    rope.theta = fields.Number("rope_theta", 1, kMaxTheta).value_or(10000.0);
    if (const nlohmann::json* object = fields.Find(key); object != nullptr) {
      if (!object->is_object()) return fields.Fail(absl::StrCat(key, ": an object expected"));
      const JsonFields inner = Fields(absl::StrCat("config.json: ", key), *object);
      rope.theta = inner.Number("rope_theta", 1, kMaxTheta).value_or(rope.theta);
      const std::string kind = inner.Text(inner.Has("rope_type") ? "rope_type" : "type").value_or("default");
      if (kind == "linear") {
        rope.scaling = RopeScalingKind::kLinear;
      } else if (kind == "llama3") {
        rope.scaling = RopeScalingKind::kLlama3;
      } else if (kind != "default") {
        return inner.Refuse(absl::StrCat("rope_type \"", kind.substr(0, 60), "\""));
      }
      if (rope.scaling != RopeScalingKind::kNone) {
        if (!inner.Has("factor")) return inner.Fail("factor: missing");
        rope.factor = inner.Number("factor", 1, 1e6).value_or(1);
      }
      if (rope.scaling == RopeScalingKind::kLlama3) {
        rope.low_frequency_factor = inner.Number("low_freq_factor", 1e-6, 1e6).value_or(1);
        rope.high_frequency_factor = inner.Number("high_freq_factor", 1e-6, 1e6).value_or(4);
        rope.original_context = inner.Integer("original_max_position_embeddings", 1, kMaxContext, 8192);
        if (rope.high_frequency_factor <= rope.low_frequency_factor) {
          return inner.Fail("high_freq_factor: must be above low_freq_factor");
        }
      }
    }
    config_.attention.fused_rope.theta = rope.theta;   // trained without scaling
  }

  // ---- Mamba in Llama --------------------------------------------------------------------------------------------------

  void ReadHybrid() {
    config_.family = Family::kHybrid;
    config_.layout = Layout::kMambaInLlama;
    const JsonFields fields = Fields("mamba_config.json", files_.mamba_config);
    const nlohmann::json empty;
    const nlohmann::json* ssm_object = fields.Find("ssm_cfg");
    const JsonFields ssm = Fields("mamba_config.json: ssm_cfg", ssm_object == nullptr ? empty : *ssm_object);

    std::vector<bool> keeps_attention(config_.layers, false);
    const nlohmann::json* layers = fields.Find("attn_layers");
    if (layers == nullptr || !layers->is_array()) return fields.Fail("attn_layers: a list of layer numbers expected");
    for (const nlohmann::json& layer : *layers) {
      if (!layer.is_number_integer() || layer.get<int64_t>() < 0 || layer.get<int64_t>() >= config_.layers) {
        return fields.Fail(absl::StrCat("attn_layers: ", layer.is_number() ? layer.dump() : "no number", " found, 0 to ",
                                        config_.layers - 1, " expected"));
      }
      keeps_attention[layer.get<int64_t>()] = true;
    }

    const int64_t expand = ssm.Integer("expand", 1, 64, 2);
    const int64_t inner = fields.Integer("d_inner", 1, kMaxWidth, expand * config_.width);
    const int64_t source = fields.Required("d_xb", 1, kMaxWidth);
    for (int layer = 0; layer < config_.layers; ++layer) {
      const std::string prefix = absl::StrCat("model.layers.", layer, ".");
      if (keeps_attention[layer]) {
        config_.fused_attention[layer] = HasTensor(prefix + "mha.in_proj.weight");
      } else if (HasTensor(prefix + "mamba.dt_bias")) {
        config_.mixers[layer] = MixerKind::kMamba2;
      } else {
        config_.mixers[layer] = MixerKind::kMamba;
        config_.fused_mamba[layer] = HasTensor(prefix + "mamba.in_proj.weight");
      }
    }
    const std::string convolution = FirstTensorEndingWith("mamba.conv1d.weight");
    const int64_t channels = convolution.empty() ? 0 : tensors_.at(convolution)[0];
    if (config_.HasMixer(MixerKind::kMamba)) {
      MambaConfig& mamba = config_.mamba;
      mamba.inner_width = static_cast<int>(inner);
      mamba.state_size = static_cast<int>(ssm.Integer("d_state", 1, kMaxState, 16));
      mamba.dt_rank = ReadDtRank(ssm, "dt_rank");
      mamba.convolution_width = static_cast<int>(ssm.Integer("d_conv", 1, 8, 4));
      mamba.groups = static_cast<int>(inner / mamba.state_size);
      mamba.source_width = static_cast<int>(source);
      mamba.repeat_before_convolution = ssm.Flag("repeat_kv_before_conv").value_or(true);
      mamba.dt_bias_applied_twice = fields.Integer("dt_bias_applied", 1, 2, 2) == 2;
      mamba.convolution_bias = ssm.Flag("conv_bias").value_or(true);
    }
    if (config_.HasMixer(MixerKind::kMamba2)) {
      Mamba2Config& mamba = config_.mamba2;
      mamba.inner_width = static_cast<int>(inner);
      mamba.state_size = static_cast<int>(ssm.Integer("d_state", 1, kMaxState, config_.attention.head_width));
      mamba.heads = mamba.groups = static_cast<int>(inner / mamba.state_size);
      mamba.convolution_width = static_cast<int>(ssm.Integer("d_conv", 1, 8, 4));
      mamba.source_width = static_cast<int>(source);
      // Where the configuration is silent, the convolution's width tells.
      mamba.repeat_before_convolution = ssm.Flag("repeat_kv_before_conv").value_or(false);
      if (channels == inner + 2 * source) mamba.repeat_before_convolution = false;
      if (channels == 3 * inner && source != inner) mamba.repeat_before_convolution = true;
      mamba.convolution_bias = ssm.Flag("conv_bias").value_or(true);
      ReadTimeStepLimit(ssm, ssm.Has("dt_limit") ? "dt_limit" : "time_step_limit", mamba);
    }
  }

  std::string FirstTensorEndingWith(const std::string& suffix) const {
    for (const auto& [name, shape] : tensors_) {
      if (absl::EndsWith(absl::string_view(name), absl::string_view(suffix)) && !shape.empty()) return name;
    }
    return "";
  }

  // ---- Mamba, Mamba-2 --------------------------------------------------------------------------------------------------

  int ReadDtRank(const JsonFields& fields, const char* key) {
    const nlohmann::json* value = fields.Find(key);
    if (value == nullptr || (value->is_string() && value->get<std::string>() == "auto")) return Ceil(config_.width, 16);
    return static_cast<int>(fields.Integer(key, 1, kMaxWidth, 1));
  }

  void ReadTimeStepLimit(const JsonFields& fields, const char* key, Mamba2Config& mamba) {
    const nlohmann::json* limit = fields.Find(key);
    if (limit == nullptr) return;
    if (!limit->is_array() || limit->size() != 2 || !(*limit)[0].is_number() || !(*limit)[1].is_number() ||
        !((*limit)[0].get<double>() <= (*limit)[1].get<double>())) {
      return fields.Fail(absl::StrCat(key, ": two numbers in order expected"));
    }
    mamba.dt_minimum = (*limit)[0].get<double>();
    mamba.dt_maximum = (*limit)[1].get<double>();
  }

  void ReadMamba(const JsonFields& fields) {
    config_.family = Family::kMamba;
    config_.layout = Layout::kHuggingFace;
    config_.width = static_cast<int>(fields.Required("hidden_size", 1, kMaxWidth));
    SetLayers(fields.Required("num_hidden_layers", 1, kMaxLayers), MixerKind::kMamba);
    ReadVocabulary(fields);
    config_.norm_epsilon = fields.Number("layer_norm_epsilon", 0, 1).value_or(1e-5);
    config_.tied_head = fields.Flag("tie_word_embeddings").value_or(true);
    if (fields.Flag("use_bias").value_or(false)) fields.Refuse("use_bias");
    MambaConfig& mamba = config_.mamba;
    const int64_t expand = fields.Integer("expand", 1, 64, 2);
    mamba.inner_width = static_cast<int>(fields.Integer("intermediate_size", 1, kMaxWidth, expand * config_.width));
    mamba.state_size = static_cast<int>(fields.Integer("state_size", 1, kMaxState, 16));
    mamba.dt_rank = ReadDtRank(fields, "time_step_rank");
    mamba.convolution_width = static_cast<int>(fields.Integer("conv_kernel", 1, 8, 4));
    mamba.convolution_bias = fields.Flag("use_conv_bias").value_or(true);
  }

  void ReadMamba2(const JsonFields& fields) {
    config_.family = Family::kMamba2;
    config_.layout = Layout::kHuggingFace;
    config_.width = static_cast<int>(fields.Required("hidden_size", 1, kMaxWidth));
    SetLayers(fields.Required("num_hidden_layers", 1, kMaxLayers), MixerKind::kMamba2);
    ReadVocabulary(fields);
    config_.norm_epsilon = fields.Number("layer_norm_epsilon", 0, 1).value_or(1e-5);
    config_.tied_head = fields.Flag("tie_word_embeddings").value_or(false);
    if (fields.Flag("use_bias").value_or(false)) fields.Refuse("use_bias");
    if (fields.Flag("norm_before_gate").value_or(false)) fields.Refuse("norm_before_gate");
    if (!fields.Flag("rms_norm").value_or(true)) fields.Refuse("rms_norm false (LayerNorm)");
    Mamba2Config& mamba = config_.mamba2;
    const int64_t expand = fields.Integer("expand", 1, 64, 2);
    mamba.inner_width = static_cast<int>(expand * config_.width);
    mamba.state_size = static_cast<int>(fields.Integer("state_size", 1, kMaxState, 128));
    mamba.heads = static_cast<int>(fields.Integer("num_heads", 1, kMaxHeads, 128));
    mamba.groups = static_cast<int>(fields.Integer("n_groups", 1, kMaxHeads, 8));
    mamba.convolution_width = static_cast<int>(fields.Integer("conv_kernel", 1, 8, 4));
    mamba.convolution_bias = fields.Flag("use_conv_bias").value_or(true);
    mamba.norm_epsilon = config_.norm_epsilon;
    const int64_t head_width = fields.Integer("head_dim", 1, kMaxWidth, mamba.inner_width / mamba.heads);
    if (head_width * mamba.heads != mamba.inner_width) {
      fields.Fail(absl::StrCat("head_dim: ", head_width, " x num_heads ", mamba.heads, " is not expand x hidden_size, ",
                               mamba.inner_width));
    }
    ReadTimeStepLimit(fields, "time_step_limit", mamba);
  }

  void ReadStateSpaces(const JsonFields& fields) {
    config_.layout = Layout::kStateSpaces;
    config_.width = static_cast<int>(fields.Required("d_model", 1, kMaxWidth));
    const nlohmann::json empty;
    const nlohmann::json* ssm_object = fields.Find("ssm_cfg");
    const JsonFields ssm = Fields("config.json: ssm_cfg", ssm_object == nullptr ? empty : *ssm_object);
    const std::string layer = ssm.Text("layer").value_or("Mamba1");
    if (layer != "Mamba1" && layer != "Mamba2") return ssm.Refuse(absl::StrCat("layer \"", layer.substr(0, 60), "\""));
    if (!fields.Flag("rms_norm").value_or(true)) fields.Refuse("rms_norm false (LayerNorm)");
    if (fields.Integer("d_intermediate", 0, kMaxWidth, 0) > 0) fields.Refuse("d_intermediate above 0");
    if (const nlohmann::json* attention = fields.Find("attn_layer_idx"); attention != nullptr && !attention->empty()) {
      fields.Refuse("attn_layer_idx");
    }
    for (const char* key : {"norm_before_gate", "D_has_hdim", "bias"}) {
      if (ssm.Flag(key).value_or(false)) ssm.Refuse(key);
    }
    if (ssm.Has("d_ssm")) ssm.Refuse("d_ssm");
    ReadVocabulary(fields);
    const int64_t multiple = fields.Integer("pad_vocab_size_multiple", 1, 1 << 16, 8);
    config_.padded_vocabulary = static_cast<int>(Ceil(config_.vocabulary, multiple) * multiple);
    config_.tied_head = fields.Flag("tie_embeddings").value_or(true);
    config_.norm_epsilon = 1e-5;
    const int64_t inner = ssm.Integer("expand", 1, 64, 2) * config_.width;
    const bool second = layer == "Mamba2";
    config_.family = second ? Family::kMamba2 : Family::kMamba;
    SetLayers(fields.Required("n_layer", 1, kMaxLayers), second ? MixerKind::kMamba2 : MixerKind::kMamba);
    const int taps = static_cast<int>(ssm.Integer("d_conv", 1, 8, 4));
    if (second) {
      Mamba2Config& mamba = config_.mamba2;
      mamba.inner_width = static_cast<int>(inner);
      mamba.state_size = static_cast<int>(ssm.Integer("d_state", 1, kMaxState, 128));
      const int64_t head_width = ssm.Integer("headdim", 1, kMaxWidth, 64);
      if (inner % head_width != 0) return ssm.Fail(absl::StrCat("headdim: ", head_width, " does not divide ", inner));
      mamba.heads = static_cast<int>(inner / head_width);
      mamba.groups = static_cast<int>(ssm.Integer("ngroups", 1, kMaxHeads, 1));
      mamba.convolution_width = taps;
      mamba.convolution_bias = ssm.Flag("conv_bias").value_or(true);
      ReadTimeStepLimit(ssm, "dt_limit", mamba);
    } else {
      MambaConfig& mamba = config_.mamba;
      mamba.inner_width = static_cast<int>(inner);
      mamba.state_size = static_cast<int>(ssm.Integer("d_state", 1, kMaxState, 16));
      mamba.dt_rank = ReadDtRank(ssm, "dt_rank");
      mamba.convolution_width = taps;
      mamba.convolution_bias = ssm.Flag("conv_bias").value_or(true);
    }
  }

  // ---- ends of text, sampling defaults ---------------------------------------------------------------------------------

  void ReadEnds(const JsonFields& fields) {
    const JsonFields generation = Fields("generation_config.json", files_.generation_config);
    const JsonFields& ends = generation.Has("eos_token_id") ? generation : fields;
    if (const nlohmann::json* eos = ends.Find("eos_token_id"); eos != nullptr) {
      const nlohmann::json list = eos->is_array() ? *eos : nlohmann::json::array({*eos});
      for (const nlohmann::json& id : list) {
        if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= config_.padded_vocabulary ||
            config_.eos_ids.size() >= 16) {
          return ends.Fail(absl::StrCat("eos_token_id: at most 16 ids from 0 to ", config_.padded_vocabulary - 1, " expected"));
        }
        config_.eos_ids.push_back(id.get<int32_t>());
      }
    }
    if (const auto bos = fields.Integer("bos_token_id", 0, kMaxVocabulary); bos.has_value()) {
      config_.bos_id = static_cast<int32_t>(*bos);
    }
  }

  void ReadGeneration() {
    const JsonFields fields = Fields("generation_config.json", files_.generation_config);
    ModelConfig::SamplingDefaults& defaults = config_.sampling_defaults;
    defaults.do_sample = fields.Flag("do_sample");
    defaults.temperature = fields.Number("temperature", 0, 100);
    defaults.top_p = fields.Number("top_p", 1e-6, 1);
    defaults.min_p = fields.Number("min_p", 0, 1);
    defaults.repetition_penalty = fields.Number("repetition_penalty", 1e-6, 100);
    if (const auto top_k = fields.Integer("top_k", 0, kMaxVocabulary); top_k.has_value()) {
      defaults.top_k = static_cast<int>(std::min<int64_t>(*top_k, config_.vocabulary));
    }
  }

  const ConfigFiles& files_;
  const TensorShapes& tensors_;
  ModelConfig config_;
  absl::Status status_;
};

absl::Status Bound(const std::string& source, const char* what, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(source, ": ", what, ": ", value, " found, ", low, " to ", high, " expected"));
}

absl::Status Divides(const std::string& source, const char* what, int64_t part, int64_t whole) {
  if (part > 0 && whole % part == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(source, ": ", what, ": ", part, " must divide ", whole));
}

// Source vectors of MambaInLlama are repeated by whole groups.
absl::Status CheckRepeat(const std::string& source, int64_t unit, int64_t source_width, int64_t inner) {
  if (source_width == 0) return absl::OkStatus();
  if (source_width % unit == 0 && inner % source_width == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(source, ": d_xb: ", source_width, " must be a multiple of ", unit,
                                                 " and divide d_inner ", inner));
}

}  // namespace

absl::Status CheckModelConfig(const std::string& source, const ModelConfig& config) {
  std::vector<absl::Status> checks = {
      Bound(source, "width", config.width, 1, kMaxWidth),
      Bound(source, "layers", config.layers, 1, kMaxLayers),
      Bound(source, "vocabulary", config.padded_vocabulary, 1, kMaxVocabulary),
      Bound(source, "MLP width", config.mlp_width, 0, kMaxWidth),
  };
  if (config.HasMixer(MixerKind::kAttention)) {
    const AttentionConfig& a = config.attention;
    checks.insert(checks.end(), {Bound(source, "query heads", a.query_heads, 1, kMaxHeads),
                                 Divides(source, "key/value heads", a.key_value_heads, a.query_heads),
                                 Bound(source, "head width", a.head_width, 2, 256), Divides(source, "2", 2, a.head_width),
                                 Bound(source, "query width", int64_t{a.query_heads} * a.head_width, 1, kMaxWidth)});
  }
  if (config.HasMixer(MixerKind::kMamba)) {
    const MambaConfig& m = config.mamba;
    checks.insert(checks.end(), {Bound(source, "inner width", m.inner_width, 1, kMaxWidth),
                                 Bound(source, "state size", m.state_size, 1, 256),
                                 Bound(source, "dt rank", m.dt_rank, 1, kMaxWidth),
                                 Bound(source, "convolution width", m.convolution_width, 1, 8)});
    if (m.source_width > 0) {
      checks.push_back(Divides(source, "state size", m.state_size, m.inner_width));
      checks.push_back(CheckRepeat(source, std::max(1, m.state_size), m.source_width, m.inner_width));
    }
  }
  if (config.HasMixer(MixerKind::kMamba2)) {
    const Mamba2Config& m = config.mamba2;
    checks.insert(checks.end(), {Bound(source, "inner width", m.inner_width, 1, kMaxWidth),
                                 Bound(source, "state size", m.state_size, 1, kMaxState),
                                 Bound(source, "convolution width", m.convolution_width, 1, 8),
                                 Divides(source, "heads", m.heads, m.inner_width),
                                 Divides(source, "groups", m.groups, m.heads),
                                 Bound(source, "groups x state size", int64_t{m.groups} * m.state_size, 1, kMaxWidth)});
    if (m.heads > 0) {
      checks.push_back(Bound(source, "numbers in a head's state", int64_t{m.inner_width / m.heads} * m.state_size, 1, 32768));
    }
    if (m.source_width > 0) checks.push_back(CheckRepeat(source, std::max(1, m.state_size), m.source_width, m.inner_width));
  }
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> ReadModelConfig(const ConfigFiles& files, const TensorShapes& tensors) {
  return Reader(files, tensors).Read();
}

}  // namespace mambad::checkpoint
