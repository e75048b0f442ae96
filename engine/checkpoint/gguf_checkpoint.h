// A model in a GGUF file.

#ifndef MAMBAD_ENGINE_CHECKPOINT_GGUF_CHECKPOINT_H_
#define MAMBAD_ENGINE_CHECKPOINT_GGUF_CHECKPOINT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"

namespace mambad::checkpoint {

absl::StatusOr<std::unique_ptr<const Checkpoint>> OpenGgufFile(const std::string& path);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_GGUF_CHECKPOINT_H_
