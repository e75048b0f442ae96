#include "engine/checkpoint/model_config_reader.h"

#include <algorithm>
#include <cmath>

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

// 2.0 is a whole number too, as all over these files.
bool IsWhole(const nlohmann::json& id) {
  return id.is_number() && std::floor(id.get<double>()) == id.get<double>();
}

// Of a whole number, however large.
bool InVocabulary(const nlohmann::json& id, int64_t last) {
  const double number = id.get<double>();
  return number >= 0 && number <= static_cast<double>(last);
}

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

// What both files call an end: a fine-tune often changes one of them only. Ids outside of the model
// can never be sampled; they are left out.
void ReadEnds(const std::string& source, const JsonFields& fields, ModelConfig& config) {
  constexpr size_t kMostListed = 1024;  // of one file
  const int64_t last = config.padded_vocabulary - 1;
  const auto* eos = fields.Find("eos_token_id");
  if (eos == nullptr) return;
  const nlohmann::json list = eos->is_array() ? *eos : nlohmann::json::array({*eos});
  for (const nlohmann::json& id : list) {
    if (!IsWhole(id) || list.size() > kMostListed) {
      return fields.FailValue("eos_token_id",
                              absl::StrCat("at most ", kMostListed, " ids from 0 to ", last));
    }
    if (!InVocabulary(id, last)) {
      config.warnings.push_back(absl::StrCat(source, ": eos_token_id: ", id.dump(),
                                             " is left out: the model has ids from 0 to ", last));
      continue;
    }
    const auto end = id.get<int32_t>();
    if (std::find(config.eos_ids.begin(), config.eos_ids.end(), end) == config.eos_ids.end()) {
      config.eos_ids.push_back(end);
    }
  }
}

// generation_config.json wins: it is what generate() goes by.
void ReadBeginning(const std::string& source, const JsonFields& fields, ModelConfig& config) {
  const int64_t last = config.padded_vocabulary - 1;
  const auto* bos = fields.Find("bos_token_id");
  if (bos == nullptr || config.bos_id.has_value()) return;
  if (!IsWhole(*bos)) {
    return fields.FailValue("bos_token_id", absl::StrCat("an id from 0 to ", last));
  }
  if (InVocabulary(*bos, last)) {
    config.bos_id = bos->get<int32_t>();
  } else {
    config.warnings.push_back(absl::StrCat(source, ": bos_token_id: ", bos->dump(),
                                           " is left out: the model has ids from 0 to ", last));
  }
}

}  // namespace

absl::StatusOr<ModelConfig> ReadModelConfig(const ConfigFiles& files, const TensorShapes& tensors) {
  absl::Status status;
  const std::string source = absl::StrCat(files.directory, "/config.json");
  const JsonFields fields(source, files.config, &status);
  const JsonFields hybrid(absl::StrCat(files.directory, "/mamba_config.json"), files.mamba_config,
                          &status);
  const std::string generation_source = absl::StrCat(files.directory, "/generation_config.json");
  const JsonFields generation(generation_source, files.generation_config, &status);
  ModelConfig config;
  ReadArchitecture(fields, files.mamba_config.is_null() ? nullptr : &hybrid, tensors, config);
  ReadEnds(source, fields, config);
  ReadEnds(generation_source, generation, config);
  ReadBeginning(generation_source, generation, config);
  ReadBeginning(source, fields, config);
  ReadGenerationDefaults(generation_source, files.generation_config, config);
  status.Update(CheckModelConfig(source, config));
  if (!status.ok()) return status;
  return config;
}

}  // namespace mambad::checkpoint
