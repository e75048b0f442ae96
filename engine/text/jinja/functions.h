#ifndef MAMBAD_ENGINE_TEXT_JINJA_FUNCTIONS_H_
#define MAMBAD_ENGINE_TEXT_JINJA_FUNCTIONS_H_

#include <string>

#include "engine/text/jinja/local_time.h"
#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/value.h"

// The functions that every template can call, and the objects that they make. Errors go to the
// runtime.
namespace mambad::text::jinja {

Value CallFunction(Runtime& runtime, Function function, const Arguments& arguments,
                   const LocalTime& now);

// A joiner called: nothing the first time, its separator afterwards.
Value CallJoiner(Runtime& runtime, Counter& joiner, const Arguments& arguments);

// name_space.name = value
void SetNamespaceAttribute(Runtime& runtime, Namespace* name_space, const std::string& name,
                           const Value& value);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_FUNCTIONS_H_
