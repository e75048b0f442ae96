// JSON files of models: objects, bounded in size.

#ifndef MAMBAD_ENGINE_CHECKPOINT_JSON_FILE_H_
#define MAMBAD_ENGINE_CHECKPOINT_JSON_FILE_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/json/json_text.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {

// An object, read as json_text.h says. INVALID_ARGUMENT, beginning with `source`, for anything
// else.
absl::StatusOr<nlohmann::json> ParseJsonObject(
    const std::string& source, std::string_view text,
    RepeatedKeys repeated_keys = RepeatedKeys::kLastCounts);

// Reads and parses a file of at most 64 MiB. NOT_FOUND when there is none.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_JSON_FILE_H_
