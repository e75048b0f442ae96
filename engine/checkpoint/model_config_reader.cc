#include "engine/checkpoint/model_config_reader.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_sections.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/generation_defaults.h"
#include "engine/checkpoint/json_fields.h"

namespace mambad::checkpoint {

void SetLayers(int64_t layers, MixerKind kind, ModelConfig& config) {
  config.layers = static_cast<int>(layers);
  config.mixers.assign(layers, kind);
  config.fused_attention.assign(layers, false);
  config.fused_mamba.assign(layers, false);
}

void ReadVocabulary(const JsonFields& fields, ModelConfig& config) {
  config.vocabulary = config.padded_vocabulary =
      static_cast<int>(fields.Required("vocab_size", 1, kMaxVocabulary));
}

bool ReadTiedHead(const JsonFields& fields, const char* key, bool absent,
                  const TensorShapes& tensors) {
  return fields.Flag(key).value_or(absent || !tensors.contains("lm_head.weight"));
}

void RefuseIf(const JsonFields& fields, const char* key, bool refused_value) {
  if (fields.Flag(key).value_or(!refused_value) == refused_value) {
    fields.Refuse(absl::StrCat(key, refused_value ? " true" : " false"));
  }
}

void RefuseActivation(const JsonFields& fields) {
  const std::string activation = fields.Text("hidden_act").value_or("silu");
  if (activation != "silu" && activation != "swish") {
    fields.Refuse(absl::StrCat("hidden_act ", Quoted(activation)));
  }
}

namespace {

// `model_type` decides first: Hugging Face's Mamba directories carry the other layout's keys along.
void ReadArchitecture(const JsonFields& fields, const JsonFields* hybrid,
                      const TensorShapes& tensors, ModelConfig& config) {
  const std::string type = fields.Text("model_type").value_or("");
  if (fields.Has("quantization_config")) fields.Refuse("quantization_config");
  if (type == "llama" || type == "mistral" || type == "qwen2" || type == "qwen3") {
    ReadLlamaConfig(fields, tensors, config);
    if (hybrid != nullptr && fields.ok()) ReadHybridConfig(*hybrid, tensors, config);
  } else if (type == "mamba" || type == "falcon_mamba") {
    ReadMambaConfig(fields, tensors, config);
  } else if (type == "mamba2") {
    ReadMamba2Config(fields, tensors, config);
  } else if (type.empty() && fields.Has("d_model") && fields.Has("n_layer")) {
    ReadStateSpacesConfig(fields, tensors, config);
  } else if (type.empty()) {
    fields.Fail("model_type: missing (and no d_model and n_layer of the state-spaces layout)");
  } else {
    fields.Refuse(
        absl::StrCat("model_type ", Quoted(type),
                     " (llama, mistral, qwen2, qwen3, mamba, falcon_mamba, mamba2 and the "
                     "state-spaces layout are)"));
  }
}

// generation_config.json wins: it is what generate() goes by.
void ReadEnds(const JsonFields& fields, const JsonFields& generation, ModelConfig& config) {
  constexpr size_t kMaxEnds = 64;
  const JsonFields& ends = generation.Has("eos_token_id") ? generation : fields;
  const int64_t last = config.padded_vocabulary - 1;
  if (const nlohmann::json* eos = ends.Find("eos_token_id"); eos != nullptr) {
    const nlohmann::json list = eos->is_array() ? *eos : nlohmann::json::array({*eos});
    for (const nlohmann::json& id : list) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > last ||
          config.eos_ids.size() >= kMaxEnds) {
        return ends.FailValue("eos_token_id",
                              absl::StrCat("at most ", kMaxEnds, " ids from 0 to ", last));
      }
      const int32_t end = id.get<int32_t>();
      if (std::find(config.eos_ids.begin(), config.eos_ids.end(), end) == config.eos_ids.end()) {
        config.eos_ids.push_back(end);
      }
    }
  }
  const JsonFields& begins = generation.Has("bos_token_id") ? generation : fields;
  if (const auto bos = begins.Integer("bos_token_id", 0, last); bos.has_value()) {
    config.bos_id = static_cast<int32_t>(*bos);
  }
}

}  // namespace

absl::StatusOr<ModelConfig> ReadModelConfig(const ConfigFiles& files, const TensorShapes& tensors) {
  absl::Status status;
  const std::string source = absl::StrCat(files.directory, "/config.json");
  const JsonFields fields(source, files.config, &status);
  const JsonFields hybrid(absl::StrCat(files.directory, "/mamba_config.json"), files.mamba_config,
                          &status);
  const JsonFields generation(absl::StrCat(files.directory, "/generation_config.json"),
                              files.generation_config, &status);
  ModelConfig config;
  ReadArchitecture(fields, files.mamba_config.is_null() ? nullptr : &hybrid, tensors, config);
  ReadEnds(fields, generation, config);
  ReadGenerationDefaults(absl::StrCat(files.directory, "/generation_config.json"),
                         files.generation_config, config);
  status.Update(CheckModelConfig(source, config));
  if (!status.ok()) return status;
  return config;
}

}  // namespace mambad::checkpoint
