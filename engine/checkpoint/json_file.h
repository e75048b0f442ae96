// JSON of model files: bounded in size and depth, and with the ways in which Python writes
// infinity.

#ifndef MAMBAD_ENGINE_CHECKPOINT_JSON_FILE_H_
#define MAMBAD_ENGINE_CHECKPOINT_JSON_FILE_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {

// An object. INVALID_ARGUMENT, beginning with `source`: no JSON, nested deeper than 64, not an
// object, or a key that stands twice. Infinity and -Infinity outside texts, and {"__float__":
// "Infinity"} as newer configuration files have it, become infinite numbers; NaN becomes null.
absl::StatusOr<nlohmann::json> ParseJson(const std::string& source, std::string_view text);

// Reads and parses a file of at most 64 MiB. NOT_FOUND when there is none.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_JSON_FILE_H_
