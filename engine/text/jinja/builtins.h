#ifndef MAMBAD_ENGINE_TEXT_JINJA_BUILTINS_H_
#define MAMBAD_ENGINE_TEXT_JINJA_BUILTINS_H_

#include <string>
#include <string_view>

#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/value.h"

// The filters (value | name) and tests (value is name) of templates. Errors go to the runtime.
namespace mambad::text::jinja {

bool IsKnownFilter(std::string_view name);
bool IsKnownTest(std::string_view name);

// An unknown name, which templates can pass to "map" and "select", is an error.
Value ApplyFilter(Runtime& runtime, const std::string& name, const Value& subject,
                  const Arguments& arguments);
bool ApplyTest(Runtime& runtime, const std::string& name, const Value& subject,
               const Arguments& arguments);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_BUILTINS_H_
