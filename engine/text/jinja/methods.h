#ifndef MAMBAD_ENGINE_TEXT_JINJA_METHODS_H_
#define MAMBAD_ENGINE_TEXT_JINJA_METHODS_H_

#include <optional>
#include <string>
#include <string_view>

#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/value.h"

namespace mambad::text::jinja {

enum class MethodSupport {
  kNone,         // objects of this kind have no such attribute, or the sandbox does not show it
  kSupported,    // CallMethod knows it
  kUnsupported,  // the reference has it, this library does not
};

MethodSupport FindMethod(const Value& receiver, std::string_view name);

// receiver.name(arguments), for a method that FindMethod supports. Errors go to the runtime.
Value CallMethod(Runtime& runtime, const Method& method, const Arguments& arguments);

// loop.index and so on, of a `loop` that is one; nullopt for names that a loop does not have.
std::optional<Value> FindLoopAttribute(const Value& loop, const std::string& name);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_METHODS_H_
