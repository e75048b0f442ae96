#ifndef MAMBAD_ENGINE_TEXT_JINJA_INTERPRETER_H_
#define MAMBAD_ENGINE_TEXT_JINJA_INTERPRETER_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/functions.h"
#include "engine/text/jinja/syntax.h"

namespace mambad::text::jinja {

// The text that `statements` make of `variables` (plain values), at the time `now`. The time,
// memory and stack that a template can take are bounded (see Runtime), whatever it says.
// INVALID_ARGUMENT: the template failed, or raised an exception (the message is then its text
// alone); UNIMPLEMENTED: it needs something that this library does not know.
absl::StatusOr<std::string> Interpret(const StatementList& statements,
                                      std::vector<std::pair<std::string, Value>> variables,
                                      const LocalTime& now);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_INTERPRETER_H_
