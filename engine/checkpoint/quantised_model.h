// Models that other programs quantised in ways that are not read here: known by their configuration
// or their tensors, refused by name.

#ifndef MAMBAD_ENGINE_CHECKPOINT_QUANTISED_MODEL_H_
#define MAMBAD_ENGINE_CHECKPOINT_QUANTISED_MODEL_H_

#include <set>
#include <string>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {

// UNIMPLEMENTED with the method's name (awq, gptq, bitsandbytes, fp8, exl2, mlx, ...), its source
// and the way out; OK for every other model. `config` is config.json of `directory`, `names` are
// all tensors of its files.
absl::Status RefuseQuantised(const std::string& directory, const nlohmann::json& config,
                             const std::set<std::string>& names);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_QUANTISED_MODEL_H_
