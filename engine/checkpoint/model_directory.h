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
#include "engine/checkpoint/safetensors.h"

namespace mambad::checkpoint {

absl::StatusOr<std::unique_ptr<const Checkpoint>> OpenModelDirectory(const std::string& directory);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_MODEL_DIRECTORY_H_
