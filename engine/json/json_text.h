// JSON as the programs that make model files write it: what Python's json reads, this reads.
#ifndef MAMBAD_ENGINE_JSON_JSON_TEXT_H_
#define MAMBAD_ENGINE_JSON_JSON_TEXT_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace mambad {

enum class RepeatedKeys { kLastCounts, kRefused };

// Any value. INVALID_ARGUMENT "source: line 3, column 7: expected ..., found ..." where `text` is
// no JSON, is nested deeper than 64, or has text that is not valid UTF-8. Accepted besides JSON: a
// byte order mark at the start; Infinity and -Infinity, which become infinite numbers; NaN, which
// becomes null; halves of surrogate pairs, which become U+FFFD. {"__float__": "Infinity"}, as newer
// configuration files write it, is the number too. Whole numbers beyond 64 bits become
// floating-point ones. Of keys that stand twice the last counts, unless they are refused. Columns
// count characters, from 1. Time and memory grow linearly with the text.
absl::StatusOr<nlohmann::json> ParseJson(const std::string& source, std::string_view text,
                                         RepeatedKeys repeated_keys = RepeatedKeys::kLastCounts);

}  // namespace mambad

#endif  // MAMBAD_ENGINE_JSON_JSON_TEXT_H_
