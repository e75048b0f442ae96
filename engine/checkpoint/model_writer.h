// Writes a model directory in one of the released layouts: what training exports and what tests
// copy.

#ifndef MAMBAD_ENGINE_CHECKPOINT_MODEL_WRITER_H_
#define MAMBAD_ENGINE_CHECKPOINT_MODEL_WRITER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/checkpoint/model_config.h"
#include "engine/checkpoint/safetensors.h"

namespace mambad::checkpoint {

// The texts of a model's configuration files; empty where the layout has none.
struct ConfigTexts {
  std::string config, mamba_config, generation_config;
};

// `type` is named in config.json. Not for Layout::kGguf. ReadModelConfig makes the same
// configuration of them. A hybrid whose dt bias counts once says "dt_bias_applied": 1; without that
// key it means twice, as in the released files.
ConfigTexts WriteModelConfig(const ModelConfig& config, StorageType type);

// Writes the tensors (model.safetensors, or shards of about `shard_bytes`; 0: one file) and then
// the configuration files into an existing directory, each file whole or not at all.
// INVALID_ARGUMENT when a tensor of the parameter table is missing, unknown or of another shape, or
// the layout is GGUF.
absl::Status WriteModelDirectory(const std::string& directory, const ModelConfig& config,
                                 absl::Span<const TensorToWrite> tensors, int64_t shard_bytes);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_MODEL_WRITER_H_
