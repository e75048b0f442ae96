// What error messages show of a file: names and values come from strangers and must stay one short
// line.

#ifndef MAMBAD_ENGINE_CHECKPOINT_ERROR_TEXT_H_
#define MAMBAD_ENGINE_CHECKPOINT_ERROR_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace mambad::checkpoint {

// The text in quotes, control characters escaped, cut after 120 bytes.
inline std::string Quoted(absl::string_view text) {
  constexpr size_t kShown = 120;
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(text.substr(0, kShown)),
                      text.size() > kShown ? "...\"" : "\"");
}

inline std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_ERROR_TEXT_H_
