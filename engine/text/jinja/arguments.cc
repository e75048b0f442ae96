#include "engine/text/jinja/arguments.h"

#include <algorithm>

#include "engine/text/jinja/message.h"
#include "engine/text/jinja/protocols.h"

namespace mambad::text::jinja {

bool CheckArguments(Runtime& runtime, std::string_view callee, const Arguments& arguments,
                    std::initializer_list<std::string_view> names, size_t required) {
  if (arguments.positional.size() > names.size()) {
    runtime.Fail(Message("'", callee, "' takes at most ", names.size(), " arguments, found ",
                         arguments.positional.size()));
  }
  for (const auto& [name, unused] : arguments.named) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
      runtime.Fail(Message("'", callee, "' has no argument named '", name, "'"));
    } else if (static_cast<size_t>(found - names.begin()) < arguments.positional.size()) {
      runtime.Fail(Message("argument '", name, "' of '", callee, "' is given twice"));
    }
  }
  for (size_t i = 0; i < required && runtime.ok(); ++i) {
    if (FindArgument(arguments, i, *(names.begin() + i)) == nullptr) {
      runtime.Fail(Message("'", callee, "' needs ", required, " arguments"));
    }
  }
  return runtime.ok();
}

const Value* FindArgument(const Arguments& arguments, size_t index, std::string_view name) {
  if (index < arguments.positional.size()) return &arguments.positional[index];
  for (const auto& [given, value] : arguments.named) {
    if (!name.empty() && given == name) return &value;
  }
  return nullptr;
}

int64_t IntegerArgument(Runtime& runtime, const Value* argument, int64_t absent) {
  if (argument == nullptr) return absent;
  if (argument->is_integral()) return argument->integral();
  runtime.Fail(Message("expected an integer as argument, found ", argument->KindName()));
  return absent;
}

std::optional<std::string_view> StringArgument(Runtime& runtime, const Value* argument) {
  if (argument == nullptr || argument->is_none()) return std::nullopt;
  if (argument->is_string()) return argument->string();
  if (argument->is_undefined()) runtime.FailUndefined(*argument);
  runtime.Fail(Message("expected a string as argument, found ", argument->KindName()));
  return std::nullopt;
}

bool FlagArgument(const Value* argument, bool absent) {
  return argument == nullptr ? absent : IsTrue(*argument);
}

}  // namespace mambad::text::jinja
