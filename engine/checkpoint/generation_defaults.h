// generation_config.json -> the sampling settings that a request has when it names none.

#ifndef MAMBAD_ENGINE_CHECKPOINT_GENERATION_DEFAULTS_H_
#define MAMBAD_ENGINE_CHECKPOINT_GENERATION_DEFAULTS_H_

#include <string>

#include "engine/checkpoint/model_config.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {

// Fills config.sampling_defaults; `config` must have its vocabulary. Nothing in these settings
// keeps a model from being served: null, and the values by which other programs say "off" (top_k -1
// and 0, top_p 1), leave a setting out in silence; what is out of range or no number is left out
// with a line in config.warnings that begins with `source`, the file.
void ReadGenerationDefaults(const std::string& source, const nlohmann::json& generation,
                            ModelConfig& config);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_GENERATION_DEFAULTS_H_
