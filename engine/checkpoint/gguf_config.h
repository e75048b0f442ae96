// GGUF metadata -> ModelConfig and TextFiles.

#ifndef MAMBAD_ENGINE_CHECKPOINT_GGUF_CONFIG_H_
#define MAMBAD_ENGINE_CHECKPOINT_GGUF_CONFIG_H_

#include <string>

#include "absl/status/status.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/gguf.h"

namespace mambad::checkpoint {

// Architectures llama, mamba and mamba2. Errors name key, value and what is allowed.
absl::Status ReadGgufConfig(const std::string& source, const GgufFile& file, ModelConfig* config,
                            TextFiles* text);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_GGUF_CONFIG_H_
