// config.json and its companions -> ModelConfig.

#ifndef MAMBAD_ENGINE_CHECKPOINT_MODEL_CONFIG_READER_H_
#define MAMBAD_ENGINE_CHECKPOINT_MODEL_CONFIG_READER_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/model_config.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {

// Contents of the JSON files; null where a file is absent. `directory` begins messages.
struct ConfigFiles {
  std::string directory;
  nlohmann::json config, mamba_config, generation_config;
};

using TensorShapes = std::map<std::string, std::vector<int64_t>>;

// The tensors' names and shapes tell what the JSON leaves open: which Mamba a hybrid's layers are,
// fused or apart. INVALID_ARGUMENT: file, key, value, what is allowed. UNIMPLEMENTED: a variant
// that is refused by name.
absl::StatusOr<ModelConfig> ReadModelConfig(const ConfigFiles& files, const TensorShapes& tensors);

// Checks that hold for every source of a configuration, GGUF too: sizes positive and bounded, so
// that no product of them overflows, heads and groups dividing evenly, one mixer a layer. `source`
// begins messages.
absl::Status CheckModelConfig(const std::string& source, const ModelConfig& config);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_MODEL_CONFIG_READER_H_
