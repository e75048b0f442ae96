// Debian's Abseil has a string_view of its own, which the standard one does not convert to.
#ifndef MAMBAD_ENGINE_TEXT_ABSL_VIEW_H_
#define MAMBAD_ENGINE_TEXT_ABSL_VIEW_H_

#include <string_view>

#include "absl/strings/string_view.h"

namespace mambad::text {

// The same bytes, for Abseil's functions.
inline absl::string_view AbslView(std::string_view text) {
  return absl::string_view(text.data(), text.size());
}

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_ABSL_VIEW_H_
