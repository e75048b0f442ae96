// What models are, from their files, before anything of them is loaded.

#ifndef MAMBAD_TRAINER_STAGES_MODEL_CONFIGURATION_H_
#define MAMBAD_TRAINER_STAGES_MODEL_CONFIGURATION_H_

#include <string>

#include "engine/checkpoint/model_config.h"

namespace mambad::trainer {

// Of a whole model: all its tensors are there and of the right shape. `key`: the setting that names
// the directory, for messages. Throws std::runtime_error.
checkpoint::ModelConfig ReadConfiguration(const std::string& key, const std::string& path);

// Likewise, or of a directory with configuration files alone.
checkpoint::ModelConfig ReadConfigurationAlone(const std::string& key, const std::string& path);

// Throws std::runtime_error when `student` has no recurrent layer: where mixers alone are trained
// there is nothing to train.
void RequireRecurrentLayers(const checkpoint::ModelConfig& student);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_MODEL_CONFIGURATION_H_
