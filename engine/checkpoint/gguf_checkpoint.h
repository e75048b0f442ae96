// A model in a GGUF file, or in the several files of a split one.

#ifndef MAMBAD_ENGINE_CHECKPOINT_GGUF_CHECKPOINT_H_
#define MAMBAD_ENGINE_CHECKPOINT_GGUF_CHECKPOINT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"

namespace mambad::checkpoint {

// `path`: the file, or any part of a split one (name-00001-of-00003.gguf), whose other parts lie
// beside it. A part that is missing or of another model is named.
absl::StatusOr<std::unique_ptr<const Checkpoint>> OpenGgufFile(const std::string& path);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_GGUF_CHECKPOINT_H_
