#ifndef MAMBAD_ENGINE_TEXT_JINJA_METHODS_H_
#define MAMBAD_ENGINE_TEXT_JINJA_METHODS_H_

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "engine/text/jinja/value.h"

namespace mambad::text::jinja {

enum class MethodSupport {
  kNone,         // objects of this kind have no such attribute
  kSupported,    // CallMethod knows it
  kUnsupported,  // the reference has it, this library does not
};

MethodSupport FindMethod(const Value& receiver, std::string_view name);

// receiver.name(arguments), for a method that FindMethod supports. Errors go to the runtime.
Value CallMethod(Runtime& runtime, const Method& method, const Arguments& arguments);

// loop.index and so on; nullopt for names that a loop does not have.
std::optional<Value> FindLoopAttribute(Runtime& runtime, const Loop& loop, const std::string& name);

// --- Arguments of methods, filters, tests and functions ---

// Checks that the arguments fit the parameters' names, with at least `required` of them given.
// An empty name stands for a parameter that can only be given by position.
bool CheckArguments(Runtime& runtime, std::string_view callee, const Arguments& arguments,
                    std::initializer_list<std::string_view> names, size_t required);

// The argument given for parameter number `index`, named `name`; null when it is absent.
const Value* FindArgument(const Arguments& arguments, size_t index, std::string_view name);

// The integer given, or `absent`; an error for other kinds.
int64_t IntegerArgument(Runtime& runtime, const Value* argument, int64_t absent);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_METHODS_H_
