#ifndef MAMBAD_ENGINE_TEXT_JINJA_PARSER_H_
#define MAMBAD_ENGINE_TEXT_JINJA_PARSER_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja/syntax.h"

namespace mambad::text::jinja {

inline constexpr size_t kMaximumSourceBytes = 256 * 1024;

// The statements of a template. INVALID_ARGUMENT for text that is no template or is too large or
// too deep, with line and column. Constructs that this library does not know (filters, tests, tags,
// what other templates would be needed for) are no error here but where they are reached.
absl::StatusOr<StatementList> ParseTemplate(std::string_view source);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_PARSER_H_
