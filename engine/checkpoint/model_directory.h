// A model in a directory: config.json and its companions, one safetensors file or several with an
// index.

#ifndef MAMBAD_ENGINE_CHECKPOINT_MODEL_DIRECTORY_H_
#define MAMBAD_ENGINE_CHECKPOINT_MODEL_DIRECTORY_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/checkpoint/model_config_reader.h"
#include "engine/checkpoint/safetensors.h"

namespace mambad::checkpoint {

// Weights: model.safetensors; else the shards of model.safetensors.index.json; else the only set of
// .safetensors files that is there, whatever its name. Tensors may have the names that LayoutNames
// knows. Errors name the file, what was found and expected, and the way out.
absl::StatusOr<std::unique_ptr<const Checkpoint>> OpenModelDirectory(const std::string& directory);

// For a directory's tensors in whatever files: gives them the layout's names, and refuses what
// could only be misread without them: models quantised by others (UNIMPLEMENTED), hybrids whose
// mamba_config.json is missing (NOT_FOUND).
absl::Status SettleTensors(const ConfigFiles& files, CheckpointParts& parts);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_MODEL_DIRECTORY_H_
