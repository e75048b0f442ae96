// JSON of model files: bounded in size and depth, Infinity and NaN outside strings accepted as Python writes them.

#ifndef MAMBAD_ENGINE_CHECKPOINT_JSON_FILE_H_
#define MAMBAD_ENGINE_CHECKPOINT_JSON_FILE_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {

// An object. INVALID_ARGUMENT, beginning with `source`: no JSON, nested deeper than 64, or not an object. Infinity becomes
// 1e999's value (infinity), NaN null. A repeated key is an error.
absl::StatusOr<nlohmann::json> ParseJson(const std::string& source, std::string_view text);

// Reads and parses a file of at most 64 MiB. NOT_FOUND when there is none.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_JSON_FILE_H_
