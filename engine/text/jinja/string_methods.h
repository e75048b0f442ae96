#ifndef MAMBAD_ENGINE_TEXT_JINJA_STRING_METHODS_H_
#define MAMBAD_ENGINE_TEXT_JINJA_STRING_METHODS_H_

#include <string>
#include <string_view>

#include "engine/text/jinja/methods.h"

namespace mambad::text::jinja {

// Whether Python's str has a method of that name, and this library too.
MethodSupport FindStringMethod(std::string_view name);

// text.name(arguments), for a method that is supported. Errors go to the runtime.
Value CallStringMethod(Runtime& runtime, const Value& text, const std::string& name,
                       const Arguments& arguments);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_STRING_METHODS_H_
