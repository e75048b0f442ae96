#include "tests/support/formula_models.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <utility>

#include "nlohmann/json.hpp"

namespace mambad::testing {
namespace {

using nlohmann::json;

constexpr int kWidth = 40;
constexpr int kVocabulary = 50;
constexpr int kLayers = 3;

// Mixes the bits of `x` so that neighbours have nothing in common (the finaliser of SplitMix64).
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

uint64_t HashName(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char letter : name) hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001b3;
  return hash;
}

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

class Builder {
 public:
  Builder(FormulaModel& model, uint64_t seed) : model_(model), seed_(seed) {}

  // Values of a size that suits the kind of tensor its name tells: activations stay near one,
  // decays between slow and fast.
  void Add(const std::string& name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    const uint64_t stream = Mix(HashName(name) ^ Mix(seed_));
    std::vector<float> values(count);
    for (int64_t i = 0; i < count; ++i) {
      // 24 bits, in [-1, 1).
      const double u = static_cast<double>(Mix(stream + i) >> 40) / (1 << 23) - 1;
      values[i] = static_cast<float>(Value(name, shape, u));
    }
    model_.directory.AddTensor(name, std::move(shape), std::move(values));
  }

  void AddLlamaFrame(const json& config, bool tied);
  void AddMlp(const std::string& prefix, int mlp_width);
  void AddAttention(const std::string& prefix, int heads, int key_heads, int head_width,
                    bool fused);
  void AddHybridMamba(const std::string& prefix, int inner, int source, int state, int rank,
                      bool fused, bool late);
  void AddHybridMamba2(const std::string& prefix, int inner, int source, int state, bool early);
  void AddBiases(const std::string& prefix,
                 const std::vector<std::pair<const char*, int64_t>>& sizes);
  void AddMamba(const std::string& prefix, int inner, int state, int rank, bool convolution_bias);
  void AddMamba2(const std::string& prefix, int inner, int state, int heads, int groups);

 private:
  static double Value(const std::string& name, const std::vector<int64_t>& shape, double u) {
    if (name.find("norm") != std::string::npos) return 1 + 0.5 * u;
    if (EndsWith(name, "A_log")) return 1.5 * u;
    if (EndsWith(name, ".D")) return 1.5 * u;
    if (EndsWith(name, "dt_bias") || EndsWith(name, "dt_proj.bias")) return 2 * u - 1;
    if (name.find("conv1d") != std::string::npos) return 0.8 * u;
    if (name.find("embed") != std::string::npos) return 1.7 * u;
    return 2 * u / std::sqrt(static_cast<double>(shape.back()));
  }

  FormulaModel& model_;
  uint64_t seed_;
};

void Builder::AddLlamaFrame(const json& config, bool tied) {
  Add("model.embed_tokens.weight", {kVocabulary, kWidth});
  Add("model.norm.weight", {kWidth});
  if (!tied) Add("lm_head.weight", {kVocabulary, kWidth});
  model_.directory.AddFile("config.json", config.dump(2));
  model_.vocabulary = model_.padded_vocabulary = kVocabulary;
}

void Builder::AddMlp(const std::string& prefix, int mlp_width) {
  Add(prefix + "input_layernorm.weight", {kWidth});
  Add(prefix + "post_attention_layernorm.weight", {kWidth});
  Add(prefix + "mlp.gate_proj.weight", {mlp_width, kWidth});
  Add(prefix + "mlp.up_proj.weight", {mlp_width, kWidth});
  Add(prefix + "mlp.down_proj.weight", {kWidth, mlp_width});
}

void Builder::AddAttention(const std::string& prefix, int heads, int key_heads, int head_width,
                           bool fused) {
  if (fused) {
    Add(prefix + "mha.in_proj.weight", {(heads + 2 * key_heads) * head_width, kWidth});
    Add(prefix + "mha.out_proj.weight", {kWidth, heads * head_width});
    return;
  }
  Add(prefix + "self_attn.q_proj.weight", {heads * head_width, kWidth});
  Add(prefix + "self_attn.k_proj.weight", {key_heads * head_width, kWidth});
  Add(prefix + "self_attn.v_proj.weight", {key_heads * head_width, kWidth});
  Add(prefix + "self_attn.o_proj.weight", {kWidth, heads * head_width});
}

void Builder::AddBiases(const std::string& prefix,
                        const std::vector<std::pair<const char*, int64_t>>& sizes) {
  for (const auto& [name, size] : sizes) Add(prefix + name + ".bias", {size});
}

void Builder::AddHybridMamba(const std::string& prefix, int inner, int source, int state, int rank,
                             bool fused, bool late) {
  if (fused) {
    Add(prefix + "in_proj.weight", {2 * inner + 2 * source + rank, kWidth});
  } else {
    Add(prefix + "in_proj_z.weight", {inner, kWidth});
    Add(prefix + "in_proj_x.weight", {source, kWidth});
    Add(prefix + "B_proj.weight", {source, kWidth});
    Add(prefix + "C_proj.weight", {inner, kWidth});
    Add(prefix + "dt_proj_down.weight", {rank, kWidth});
  }
  Add(prefix + "dt_proj.weight", {inner, rank});
  Add(prefix + "dt_proj.bias", {inner});
  Add(prefix + "conv1d.weight", {late ? source : inner, 1, 4});
  Add(prefix + "conv1d.bias", {late ? source : inner});
  Add(prefix + "A_log", {inner, state});
  Add(prefix + "D", {inner});
  Add(prefix + "out_proj.weight", {kWidth, inner});
}

void Builder::AddHybridMamba2(const std::string& prefix, int inner, int source, int state,
                              bool early) {
  const int heads = inner / state, channels = early ? 3 * inner : inner + 2 * source;
  Add(prefix + "in_proj.weight", {2 * inner + 2 * source + heads, kWidth});
  Add(prefix + "conv1d.weight", {channels, 1, 4});
  Add(prefix + "conv1d.bias", {channels});
  for (const char* name : {"dt_bias", "A_log", "D"}) Add(prefix + name, {heads});
  Add(prefix + "norm.weight", {inner});
  Add(prefix + "out_proj.weight", {kWidth, inner});
}

void Builder::AddMamba(const std::string& prefix, int inner, int state, int rank,
                       bool convolution_bias) {
  Add(prefix + "norm.weight", {kWidth});
  Add(prefix + "mixer.in_proj.weight", {2 * inner, kWidth});
  Add(prefix + "mixer.x_proj.weight", {rank + 2 * state, inner});
  Add(prefix + "mixer.dt_proj.weight", {inner, rank});
  Add(prefix + "mixer.dt_proj.bias", {inner});
  Add(prefix + "mixer.conv1d.weight", {inner, 1, 4});
  if (convolution_bias) Add(prefix + "mixer.conv1d.bias", {inner});
  Add(prefix + "mixer.A_log", {inner, state});
  Add(prefix + "mixer.D", {inner});
  Add(prefix + "mixer.out_proj.weight", {kWidth, inner});
}

void Builder::AddMamba2(const std::string& prefix, int inner, int state, int heads, int groups) {
  const int channels = inner + 2 * groups * state;
  Add(prefix + "norm.weight", {kWidth});
  Add(prefix + "mixer.in_proj.weight", {inner + channels + heads, kWidth});
  Add(prefix + "mixer.conv1d.weight", {channels, 1, 4});
  Add(prefix + "mixer.conv1d.bias", {channels});
  for (const char* name : {"dt_bias", "A_log", "D"}) Add(prefix + "mixer." + name, {heads});
  Add(prefix + "mixer.norm.weight", {inner});
  Add(prefix + "mixer.out_proj.weight", {kWidth, inner});
}

std::string Layer(const char* stem, int i) { return stem + std::to_string(i) + "."; }

const char* ClassName(const std::string& type) {
  if (type == "qwen2") return "Qwen2ForCausalLM";
  if (type == "qwen3") return "Qwen3ForCausalLM";
  return type == "llama" ? "LlamaForCausalLM" : "MistralForCausalLM";
}

json LlamaConfig(const char* type) {
  return {{"model_type", type},
          {"architectures", {ClassName(type)}},
          {"hidden_size", kWidth},
          {"intermediate_size", 56},
          {"num_hidden_layers", kLayers},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", kVocabulary},
          {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-4},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", false},
          {"bos_token_id", 1},
          {"eos_token_id", 2},
          {"rope_theta", 1000.0},
          {"rope_scaling", nullptr}};
}

json Llama3Scaling() {
  return {{"rope_type", "llama3"},
          {"factor", 8.0},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0},
          {"original_max_position_embeddings", 64}};
}

json YarnScaling() {
  return {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 128}};
}

// What a Llama-like layer has beside its matrices: biases and norms of heads.
void AddVariant(Builder& builder, const std::string& prefix, const json& config, int head_width) {
  const std::string type = config["model_type"];
  const bool qwen2 = type == "qwen2", all = config.value("attention_bias", false);
  const int64_t query = 4 * head_width, key = 2 * head_width;
  if (qwen2 || all) {
    builder.AddBiases(prefix + "self_attn.", {{"q_proj", query}, {"k_proj", key}, {"v_proj", key}});
  }
  if (all) builder.AddBiases(prefix + "self_attn.", {{"o_proj", kWidth}});
  if (config.value("mlp_bias", false)) {
    builder.AddBiases(prefix + "mlp.", {{"gate_proj", 56}, {"up_proj", 56}, {"down_proj", kWidth}});
  }
  if (type == "qwen3") {
    builder.Add(prefix + "self_attn.q_norm.weight", {head_width});
    builder.Add(prefix + "self_attn.k_norm.weight", {head_width});
  }
}

void MakeLlama(Builder& builder, const json& config) {
  const bool tied = config["tie_word_embeddings"];
  const int head_width = config.value("head_dim", kWidth / 4);
  builder.AddLlamaFrame(config, tied);
  for (int i = 0; i < kLayers; ++i) {
    builder.AddMlp(Layer("model.layers.", i), 56);
    builder.AddAttention(Layer("model.layers.", i), 4, 2, head_width, false);
    AddVariant(builder, Layer("model.layers.", i), config, head_width);
  }
}

// Layer 1 is attention. `second`: Mamba-2.
struct HybridShape {
  bool second = false, fused = false, late = false, early = false;
};
void MakeHybrid(FormulaModel& model, Builder& builder, const json& config, json numbers,
                const HybridShape& shape, bool applied_once = false) {
  // Groups of the gated norm are as wide as the state: with very few numbers some are near zero,
  // and then no float32 arithmetic is accurate.
  const int state = shape.second ? 16 : 4, inner = shape.second ? 96 : 48, source = inner / 3,
            rank = (kWidth + 15) / 16;
  numbers["d_state"] = state;
  json hybrid = {{"d_model", kWidth},    {"ssm_cfg", numbers},
                 {"rms_norm_eps", 1e-4}, {"vocab_size", nullptr},
                 {"d_inner", inner},     {"d_xb", source},
                 {"hidden_act", "silu"}, {"intermediate_size", 56},
                 {"n_layer", kLayers},   {"attn_layers", json::array({1})}};
  if (applied_once) hybrid["dt_bias_applied"] = 1;
  builder.AddLlamaFrame(config, false);
  model.directory.AddFile("mamba_config.json", hybrid.dump(2));
  for (int i = 0; i < kLayers; ++i) {
    const std::string prefix = Layer("model.layers.", i);
    builder.AddMlp(prefix, 56);
    if (i == 1) {
      builder.AddAttention(prefix, 4, 2, kWidth / 4, shape.fused);
      AddVariant(builder, prefix, config, kWidth / 4);
    } else if (shape.second) {
      builder.AddHybridMamba2(prefix + "mamba.", inner, source, state, shape.early);
    } else {
      builder.AddHybridMamba(prefix + "mamba.", inner, source, state, rank, shape.fused,
                             shape.late);
    }
  }
}

// The frame of HF and state-spaces models; `layer` adds one.
void MakeStandard(FormulaModel& model, Builder& builder, const json& config, bool hugging_face,
                  bool stores_head, const std::function<void(const std::string&)>& layer) {
  model.vocabulary = kVocabulary;
  model.padded_vocabulary = hugging_face ? kVocabulary : (kVocabulary + 15) / 16 * 16;
  builder.Add(hugging_face ? "backbone.embeddings.weight" : "backbone.embedding.weight",
              {model.padded_vocabulary, kWidth});
  builder.Add("backbone.norm_f.weight", {kWidth});
  for (int i = 0; i < kLayers; ++i) layer(Layer("backbone.layers.", i));
  if (stores_head) builder.Add("lm_head.weight", {model.padded_vocabulary, kWidth});
  std::string text = config.dump(2);
  // As Python writes it; no JSON.
  const size_t infinity = text.find("\"INFINITY\"");
  if (infinity != std::string::npos) text.replace(infinity, 10, "Infinity");
  model.directory.AddFile("config.json", text);
}

json HuggingFaceConfig(const char* type, int state, bool tied) {
  return {{"model_type", type},
          {"hidden_size", kWidth},
          {"num_hidden_layers", kLayers},
          {"vocab_size", kVocabulary},
          {"state_size", state},
          {"expand", 2},
          {"conv_kernel", 4},
          {"layer_norm_epsilon", 1e-4},
          {"use_conv_bias", true},
          {"use_bias", false},
          {"hidden_act", "silu"},
          {"rms_norm", true},
          {"tie_word_embeddings", tied},
          {"intermediate_size", 2 * kWidth},
          {"bos_token_id", 0},
          {"eos_token_id", 0}};
}

json StateSpacesConfig(json numbers) {
  return {{"d_model", kWidth},         {"n_layer", kLayers},
          {"vocab_size", kVocabulary}, {"ssm_cfg", std::move(numbers)},
          {"rms_norm", true},          {"residual_in_fp32", true},
          {"fused_add_norm", true},    {"pad_vocab_size_multiple", 16},
          {"tie_embeddings", true}};
}

using Maker = std::function<void(FormulaModel&, Builder&)>;

void MakeLlamas(std::map<std::string, Maker>& makers) {
  makers["llama_tied"] = [](FormulaModel&, Builder& builder) {
    json config = LlamaConfig("llama");
    config["head_dim"] = 12;
    config["tie_word_embeddings"] = true;
    MakeLlama(builder, config);
  };
  makers["llama_llama3"] = [](FormulaModel&, Builder& builder) {
    json config = LlamaConfig("llama");
    config["rope_scaling"] = Llama3Scaling();
    MakeLlama(builder, config);
  };
  makers["llama_linear"] = [](FormulaModel&, Builder& builder) {
    json config = LlamaConfig("llama");
    config.erase("rope_theta");
    config.erase("rope_scaling");
    config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.5}, {"rope_theta", 700.0}};
    MakeLlama(builder, config);
  };
  makers["llama_biases"] = [](FormulaModel&, Builder& builder) {
    json config = LlamaConfig("llama");
    config["attention_bias"] = config["mlp_bias"] = true;
    MakeLlama(builder, config);
  };
  makers["llama_yarn"] = [](FormulaModel&, Builder& builder) {
    json config = LlamaConfig("llama");
    config["head_dim"] = 16;
    config["rope_scaling"] = YarnScaling();
    MakeLlama(builder, config);
  };
  makers["llama_dynamic"] = [](FormulaModel&, Builder& builder) {
    json config = LlamaConfig("llama");
    config["max_position_embeddings"] = 24;
    config["rope_scaling"] = {{"type", "dynamic"}, {"factor", 20.0}};
    MakeLlama(builder, config);
  };
  makers["qwen2"] = [](FormulaModel&, Builder& builder) {
    json config = LlamaConfig("qwen2");
    config["tie_word_embeddings"] = config["use_sliding_window"] = true;
    config["sliding_window"] = 9;
    config["max_window_layers"] = 1;
    MakeLlama(builder, config);
  };
  makers["qwen3"] = [](FormulaModel&, Builder& builder) {
    json config = LlamaConfig("qwen3");
    config["head_dim"] = 12;
    config.erase("rope_theta");
    config.erase("rope_scaling");
    config["rope_parameters"] = YarnScaling();
    config["rope_parameters"]["rope_theta"] = 1000.0;
    config["use_sliding_window"] = true;
    config["sliding_window"] = 7;
    config["layer_types"] = {"full_attention", "sliding_attention", "full_attention"};
    MakeLlama(builder, config);
  };
  makers["mistral_window"] = [](FormulaModel&, Builder& builder) {
    json config = LlamaConfig("mistral");
    config["sliding_window"] = 7;
    MakeLlama(builder, config);
  };
}

void MakeMambas(std::map<std::string, Maker>& makers) {
  makers["mamba"] = [](FormulaModel& model, Builder& builder) {
    json config = HuggingFaceConfig("mamba", 5, true);
    config["time_step_rank"] = 3;
    MakeStandard(model, builder, config, true, false, [&](const std::string& prefix) {
      builder.AddMamba(prefix, 2 * kWidth, 5, 3, true);
    });
  };
  makers["mamba_rank"] = [](FormulaModel& model, Builder& builder) {
    json config = HuggingFaceConfig("mamba", 16, false);
    config["time_step_rank"] = 7;
    config["use_conv_bias"] = false;
    config["ssm_cfg"] = json::object();
    config["d_model"] = kWidth;
    config["n_layer"] = kLayers;
    MakeStandard(model, builder, config, true, true, [&](const std::string& prefix) {
      builder.AddMamba(prefix, 2 * kWidth, 16, 7, false);
    });
  };
  makers["falcon_mamba"] = [](FormulaModel& model, Builder& builder) {
    json config = HuggingFaceConfig("falcon_mamba", 5, false);
    config["time_step_rank"] = 3;
    config["use_bias"] = true;
    config["mixer_rms_eps"] = 1e-3;
    MakeStandard(model, builder, config, true, true, [&](const std::string& prefix) {
      builder.AddMamba(prefix, 2 * kWidth, 5, 3, true);
      builder.AddBiases(prefix + "mixer.", {{"in_proj", 4 * kWidth}, {"out_proj", kWidth}});
    });
  };
  makers["mamba2_biases"] = [](FormulaModel& model, Builder& builder) {
    json config = HuggingFaceConfig("mamba2", 12, false);
    config["num_heads"] = 10, config["head_dim"] = 8, config["n_groups"] = 1,
    config["chunk_size"] = 16;
    config["use_bias"] = true;
    MakeStandard(model, builder, config, true, true, [&](const std::string& prefix) {
      builder.AddMamba2(prefix, 2 * kWidth, 12, 10, 1);
      builder.AddBiases(prefix + "mixer.", {{"in_proj", 4 * kWidth + 34}, {"out_proj", kWidth}});
    });
  };
  makers["mamba_state_spaces"] = [](FormulaModel& model, Builder& builder) {
    MakeStandard(model, builder, StateSpacesConfig(json::object()), false, true,
                 [&](const std::string& prefix) {
                   builder.AddMamba(prefix, 2 * kWidth, 16, (kWidth + 15) / 16, true);
                 });
  };
  makers["mamba2"] = [](FormulaModel& model, Builder& builder) {
    json config = HuggingFaceConfig("mamba2", 12, false);
    config["num_heads"] = 10, config["head_dim"] = 8, config["n_groups"] = 1,
    config["chunk_size"] = 16;
    config["time_step_limit"] = {0.0, "INFINITY"};
    MakeStandard(model, builder, config, true, true, [&](const std::string& prefix) {
      builder.AddMamba2(prefix, 2 * kWidth, 12, 10, 1);
    });
  };
  makers["mamba2_infinity"] = [](FormulaModel& model, Builder& builder) {
    json config = HuggingFaceConfig("mamba2", 12, false);
    config["num_heads"] = 10, config["head_dim"] = 8, config["n_groups"] = 1,
    config["chunk_size"] = 16;
    config["time_step_limit"] = {0.0, {{"__float__", "Infinity"}}};
    MakeStandard(model, builder, config, true, true, [&](const std::string& prefix) {
      builder.AddMamba2(prefix, 2 * kWidth, 12, 10, 1);
    });
  };
  makers["mamba2_groups"] = [](FormulaModel& model, Builder& builder) {
    json config = HuggingFaceConfig("mamba2", 16, true);
    config["num_heads"] = 10, config["head_dim"] = 8, config["n_groups"] = 2,
    config["chunk_size"] = 16;
    config["time_step_limit"] = {0.2, 0.8};
    MakeStandard(model, builder, config, true, false, [&](const std::string& prefix) {
      builder.AddMamba2(prefix, 2 * kWidth, 16, 10, 2);
    });
  };
  makers["mamba2_state_spaces"] = [](FormulaModel& model, Builder& builder) {
    const json numbers = {{"layer", "Mamba2"}, {"headdim", 20}, {"d_state", 24}};
    MakeStandard(
        model, builder, StateSpacesConfig(numbers), false, true,
        [&](const std::string& prefix) { builder.AddMamba2(prefix, 2 * kWidth, 24, 4, 1); });
  };
}

void MakeHybrids(std::map<std::string, Maker>& makers) {
  makers["hybrid_mamba"] = [](FormulaModel& model, Builder& builder) {
    json config = LlamaConfig("llama");
    config["rope_scaling"] = Llama3Scaling();
    MakeHybrid(model, builder, config, {{"expand", 1}}, {});
  };
  makers["hybrid_mamba_fused"] = [](FormulaModel& model, Builder& builder) {
    json config = LlamaConfig("llama");
    config["rope_scaling"] = Llama3Scaling();  // which the fused attention does not follow
    MakeHybrid(model, builder, config, {{"expand", 1}}, {.fused = true});
  };
  makers["hybrid_mamba_late"] = [](FormulaModel& model, Builder& builder) {
    MakeHybrid(model, builder, LlamaConfig("llama"),
               {{"expand", 1}, {"repeat_kv_before_conv", false}}, {.late = true});
  };
  makers["hybrid_mamba_once"] = [](FormulaModel& model, Builder& builder) {
    MakeHybrid(model, builder, LlamaConfig("llama"), {{"expand", 1}}, {}, /*applied_once=*/true);
  };
  makers["hybrid_mamba2"] = [](FormulaModel& model, Builder& builder) {
    json config = LlamaConfig("mistral");
    config["sliding_window"] = 9;
    MakeHybrid(model, builder, config, {{"expand", 1}, {"ngroups", 6}}, {.second = true});
  };
  makers["hybrid_qwen3"] = [](FormulaModel& model, Builder& builder) {
    json config = LlamaConfig("qwen3");
    config["head_dim"] = kWidth / 4;
    MakeHybrid(model, builder, config, {{"expand", 1}, {"ngroups", 6}}, {.second = true});
  };
  makers["hybrid_mamba2_early"] = [](FormulaModel& model, Builder& builder) {
    const json numbers = {
        {"expand", 1}, {"ngroups", 6}, {"repeat_kv_before_conv", true}, {"dt_limit", {0.2, 0.8}}};
    MakeHybrid(model, builder, LlamaConfig("llama"), numbers, {.second = true, .early = true});
  };
}

const std::map<std::string, Maker>& Makers() {
  static const auto* makers = [] {
    auto* made = new std::map<std::string, Maker>();
    MakeLlamas(*made);
    MakeMambas(*made);
    MakeHybrids(*made);
    return made;
  }();
  return *makers;
}

}  // namespace

const std::vector<std::string>& FormulaModelNames() {
  static const auto* names = [] {
    auto* made = new std::vector<std::string>();
    for (const auto& [name, maker] : Makers()) made->push_back(name);
    return made;
  }();
  return *names;
}

FormulaModel MakeFormulaModel(const std::string& name, uint64_t seed) {
  const auto found = Makers().find(name);
  if (found == Makers().end()) {
    std::fprintf(stderr, "no formula model is called %s\n", name.c_str());
    std::abort();
  }
  FormulaModel model;
  model.name = name;
  model.family = name.substr(0, name.find('_'));
  if (model.family == "mistral" || model.family.starts_with("qwen")) model.family = "llama";
  if (model.family == "falcon") model.family = "mamba";
  Builder builder(model, seed);
  found->second(model, builder);
  return model;
}

std::vector<int32_t> FormulaTokens(int count, int vocabulary, uint64_t seed) {
  std::vector<int32_t> tokens(count);
  for (int i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>(Mix(Mix(seed) + i) % vocabulary);
  return tokens;
}

}  // namespace mambad::testing
