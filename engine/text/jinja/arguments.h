// The arguments of methods, filters, tests and functions. Errors go to the runtime.
#ifndef MAMBAD_ENGINE_TEXT_JINJA_ARGUMENTS_H_
#define MAMBAD_ENGINE_TEXT_JINJA_ARGUMENTS_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>

#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/value.h"

namespace mambad::text::jinja {

// Checks that the arguments fit the parameters' names, with at least `required` of them given.
// An empty name stands for a parameter that can only be given by position.
bool CheckArguments(Runtime& runtime, std::string_view callee, const Arguments& arguments,
                    std::initializer_list<std::string_view> names, size_t required);

// The argument given for parameter number `index`, named `name`; null when it is absent.
const Value* FindArgument(const Arguments& arguments, size_t index, std::string_view name);

// The integer given, or `absent` where there is none; an error for other kinds.
int64_t IntegerArgument(Runtime& runtime, const Value* argument, int64_t absent);
// The string given, or nullopt when absent or none; an error for other kinds.
std::optional<std::string_view> StringArgument(Runtime& runtime, const Value* argument);
// Whether the argument is given and true.
bool FlagArgument(const Value* argument, bool absent);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_ARGUMENTS_H_
