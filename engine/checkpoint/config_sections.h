// The readers of one kind of configuration each; model_config_reader puts them together.

#ifndef MAMBAD_ENGINE_CHECKPOINT_CONFIG_SECTIONS_H_
#define MAMBAD_ENGINE_CHECKPOINT_CONFIG_SECTIONS_H_

#include <cstdint>

#include "engine/checkpoint/json_fields.h"
#include "engine/checkpoint/model_config.h"
#include "engine/checkpoint/model_config_reader.h"

namespace mambad::checkpoint {

// Bounds of what a file may say: no product of two of them overflows int64, none alone int.
inline constexpr int64_t kMaxWidth = 1 << 17, kMaxLayers = 1024, kMaxVocabulary = 1 << 22;
inline constexpr int64_t kMaxState = 1024, kMaxHeads = 4096, kMaxTaps = 8, kMaxHeadWidth = 256;
inline constexpr int64_t kMaxContext = int64_t{1} << 32;
inline constexpr double kMaxTheta = 1e12;

// Each fills its part of `config`; errors are kept in the fields' status.
void ReadLlamaConfig(const JsonFields& fields, const TensorShapes& tensors, ModelConfig& config);
void ReadMambaConfig(const JsonFields& fields, const TensorShapes& tensors, ModelConfig& config);
void ReadMamba2Config(const JsonFields& fields, const TensorShapes& tensors, ModelConfig& config);
void ReadStateSpacesConfig(const JsonFields& fields, const TensorShapes& tensors,
                           ModelConfig& config);
// `fields` of mamba_config.json, after ReadLlamaConfig.
void ReadHybridConfig(const JsonFields& fields, const TensorShapes& tensors, ModelConfig& config);

// Shared by them.
void SetLayers(int64_t layers, MixerKind kind, ModelConfig& config);
void ReadVocabulary(const JsonFields& fields, ModelConfig& config);
// What `key` says; where it is silent, `absent`, but never untied without a head to use.
bool ReadTiedHead(const JsonFields& fields, const char* key, bool absent,
                  const TensorShapes& tensors);
// `expand` x width rounded down as the original does; `expand` absent means 2.
int64_t ReadExpandedWidth(const JsonFields& fields, const ModelConfig& config);
// ceil(width / 16) when absent or "auto".
int ReadDtRank(const JsonFields& fields, const char* key, const ModelConfig& config);
// [low, high]; the upper limit may be infinite.
void ReadTimeStepLimit(const JsonFields& fields, const char* key, Mamba2Config& mamba);
// Refuses flags that are set to what is not implemented.
void RefuseIf(const JsonFields& fields, const char* key, bool refused_value);
void RefuseActivation(const JsonFields& fields);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_CONFIG_SECTIONS_H_
