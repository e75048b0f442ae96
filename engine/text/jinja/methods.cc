#include "engine/text/jinja/methods.h"

#include <algorithm>

#include "engine/text/jinja/message.h"
#include "engine/text/jinja/unicode.h"

namespace mambad::text::jinja {
namespace {

using Names = std::initializer_list<std::string_view>;

bool IsAmong(std::string_view name, Names names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// The string given, or nullopt when absent or none; an error for other kinds.
std::optional<std::string_view> StringArgument(Runtime& runtime, const Value* argument) {
  if (argument == nullptr || argument->is_none()) return std::nullopt;
  if (argument->is_string()) return argument->string();
  runtime.Fail(Message("expected a string as argument, found ", argument->KindName()));
  return std::nullopt;
}

Value MakeStrings(Runtime& runtime, const std::vector<std::string_view>& pieces) {
  if (!runtime.SpendSteps(pieces.size())) return Value();
  Values items;
  for (std::string_view piece : pieces) items.push_back(Value::String(std::string(piece)));
  return runtime.MakeList(std::move(items));
}

Value StripText(Runtime& runtime, const std::string& text, const std::string& name,
                const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {""}, 0)) return Value();
  const auto characters = StringArgument(runtime, FindArgument(arguments, 0, ""));
  return runtime.MakeString(
      std::string(Strip(text, characters, name != "rstrip", name != "lstrip")));
}

Value SplitText(Runtime& runtime, const std::string& text, const Arguments& arguments) {
  if (!CheckArguments(runtime, "split", arguments, {"sep", "maxsplit"}, 0)) return Value();
  const auto separator = StringArgument(runtime, FindArgument(arguments, 0, "sep"));
  const int64_t limit = IntegerArgument(runtime, FindArgument(arguments, 1, "maxsplit"), -1);
  if (separator.has_value() && separator->empty()) return runtime.Fail("split at an empty text");
  if (!runtime.SpendBytes(2 * text.size()) ||
      (separator.has_value() && !runtime.SpendSteps(CountOccurrences(text, *separator)))) {
    return Value();
  }
  // At most one piece for two characters; charged before the pieces are made.
  if (!separator.has_value() && limit != 0 && !runtime.SpendSteps(text.size() / 32)) return Value();
  return MakeStrings(runtime, Split(text, separator, limit));
}

Value HasAffix(Runtime& runtime, const std::string& text, const std::string& name,
               const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {"", "", ""}, 1)) return Value();
  if (arguments.positional.size() > 1) {
    return runtime.FailUnimplemented(Message("'", name, "' with a range"));
  }
  const Value& affix = arguments.positional[0];
  const bool is_tuple = affix.list() != nullptr && affix.list()->kind == List::Kind::kTuple;
  for (const Value& candidate : is_tuple ? affix.list()->items : Values{affix}) {
    if (!candidate.is_string()) {
      return runtime.Fail(Message("'", name, "' needs a string, not ", candidate.KindName()));
    }
    const std::string_view part = candidate.string();
    if (!runtime.SpendSteps(1) || !runtime.SpendBytes(part.size())) return Value();
    const std::string_view whole = text;
    if (name == "startswith" ? whole.starts_with(part) : whole.ends_with(part)) {
      return Value::Boolean(true);
    }
  }
  return Value::Boolean(false);
}

Value ReplaceText(Runtime& runtime, const std::string& text, const Arguments& arguments) {
  if (!CheckArguments(runtime, "replace", arguments, {"", "", ""}, 2)) return Value();
  const auto from = StringArgument(runtime, FindArgument(arguments, 0, ""));
  const auto to = StringArgument(runtime, FindArgument(arguments, 1, ""));
  const int64_t limit = IntegerArgument(runtime, FindArgument(arguments, 2, ""), -1);
  if (!from.has_value() || !to.has_value()) return runtime.Fail("'replace' needs two strings");
  if (!runtime.SpendBytes(2 * text.size())) return Value();
  uint64_t times = CountOccurrences(text, *from);
  if (limit >= 0) times = std::min<uint64_t>(times, limit);
  if (text.size() + times * to->size() > 2 * Runtime::kMaximumTextBytes) {
    return runtime.Fail("'replace' makes a text that is too long");
  }
  return runtime.MakeString(Replace(text, *from, *to, limit));
}

Value JoinTexts(Runtime& runtime, const std::string& separator, const Arguments& arguments) {
  if (!CheckArguments(runtime, "join", arguments, {""}, 1)) return Value();
  if (arguments.positional[0].is_undefined()) return Value::String("");
  std::string result;
  bool first = true;
  for (const Value& piece : Elements(runtime, arguments.positional[0])) {
    if (!piece.is_string()) {
      return runtime.Fail(Message("'join' needs strings, not ", piece.KindName()));
    }
    if (!first) result += separator;
    first = false;
    result += piece.string();
    if (result.size() > Runtime::kMaximumTextBytes) break;
  }
  return runtime.MakeString(std::move(result));
}

Value ChangeCase(Runtime& runtime, const std::string& text, const std::string& name,
                 const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {}, 0)) return Value();
  if (!runtime.SpendBytes(text.size())) return Value();
  if (!IsAscii(text)) {
    return runtime.FailUnimplemented(Message("'", name, "' of letters beyond ASCII"));
  }
  if (name == "upper") return runtime.MakeString(AsciiUpper(text));
  if (name == "title") return runtime.MakeString(AsciiTitle(text));
  std::string result = AsciiLower(text);
  if (name == "capitalize" && !result.empty()) {
    result.replace(0, 1, AsciiUpper(result.substr(0, 1)));
  }
  return runtime.MakeString(std::move(result));
}

Value CountOrFind(Runtime& runtime, const std::string& text, const std::string& name,
                  const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {""}, 1)) return Value();
  const auto needle = StringArgument(runtime, &arguments.positional[0]);
  if (!needle.has_value()) return runtime.Fail(Message("'", name, "' needs a string"));
  if (!runtime.SpendBytes(2 * text.size())) return Value();
  if (name == "count") return Value::Integer(CountOccurrences(text, *needle));
  const size_t at = Find(text, *needle, 0);
  if (at == std::string::npos) return Value::Integer(-1);
  return Value::Integer(CountCharacters(std::string_view(text).substr(0, at)));
}

Value CallStringMethod(Runtime& runtime, const std::string& text, const std::string& name,
                       const Arguments& arguments) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    return StripText(runtime, text, name, arguments);
  }
  if (name == "split") return SplitText(runtime, text, arguments);
  if (name == "startswith" || name == "endswith") return HasAffix(runtime, text, name, arguments);
  if (name == "replace") return ReplaceText(runtime, text, arguments);
  if (name == "join") return JoinTexts(runtime, text, arguments);
  if (name == "count" || name == "find") return CountOrFind(runtime, text, name, arguments);
  return ChangeCase(runtime, text, name, arguments);
}

Value CallDictMethod(Runtime& runtime, const Dict& dict, const std::string& name,
                     const Arguments& arguments) {
  if (name == "get") {
    if (!CheckArguments(runtime, name, arguments, {"", ""}, 1)) return Value();
    if (!IsHashable(arguments.positional[0])) return runtime.Fail("'get' with a key of that kind");
    const Value* value = FindKey(runtime, dict, arguments.positional[0]);
    if (value != nullptr) return *value;
    return arguments.positional.size() > 1 ? arguments.positional[1] : Value::None();
  }
  if (!CheckArguments(runtime, name, arguments, {}, 0)) return Value();
  Values items;
  for (const auto& [key, value] : dict.entries) {
    if (!runtime.SpendSteps(1)) return Value();
    items.push_back(name == "keys"     ? key
                    : name == "values" ? value
                                       : runtime.MakeList({key, value}, List::Kind::kTuple));
  }
  return runtime.MakeList(std::move(items), List::Kind::kView);
}

Value CallListMethod(Runtime& runtime, const List& list, const std::string& name,
                     const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {""}, 1)) return Value();
  int64_t count = 0;
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (!AreEqual(runtime, list.items[i], arguments.positional[0])) continue;
    if (name == "index") return Value::Integer(i);
    ++count;
  }
  if (name == "index") return runtime.Fail("'index' of a value that is not in the list");
  return Value::Integer(count);
}

}  // namespace

MethodSupport FindMethod(const Value& receiver, std::string_view name) {
  const List* list = receiver.list();
  const bool is_list = list != nullptr && list->kind == List::Kind::kList;
  const bool is_tuple = list != nullptr && list->kind == List::Kind::kTuple;
  if (receiver.is_string()) {
    if (IsAmong(name, {"strip", "lstrip", "rstrip", "split", "startswith", "endswith", "upper",
                       "lower", "title", "capitalize", "replace", "join", "count", "find"})) {
      return MethodSupport::kSupported;
    }
    if (IsAmong(name, {"casefold",  "center",      "encode",     "expandtabs",   "format",
                       "index",     "format_map",  "isalnum",    "isalpha",      "isascii",
                       "isdecimal", "isdigit",     "islower",    "isidentifier", "isnumeric",
                       "isspace",   "isprintable", "istitle",    "isupper",      "ljust",
                       "maketrans", "partition",   "rfind",      "removeprefix", "removesuffix",
                       "rindex",    "rjust",       "rpartition", "rsplit",       "splitlines",
                       "swapcase",  "translate",   "zfill"})) {
      return MethodSupport::kUnsupported;
    }
  } else if (receiver.dict() != nullptr) {
    if (IsAmong(name, {"items", "keys", "values", "get"})) return MethodSupport::kSupported;
    if (IsAmong(name, {"clear", "copy", "fromkeys", "pop", "popitem", "setdefault", "update"})) {
      return MethodSupport::kUnsupported;
    }
  } else if (is_list || is_tuple) {
    if (IsAmong(name, {"count", "index"})) return MethodSupport::kSupported;
    if (is_list && IsAmong(name, {"append", "clear", "copy", "extend", "insert", "pop", "remove",
                                  "reverse", "sort"})) {
      return MethodSupport::kUnsupported;
    }
  } else if (receiver.is_number()) {
    if (IsAmong(name, {"real", "imag", "conjugate", "as_integer_ratio", "bit_length", "bit_count",
                       "denominator", "numerator", "from_bytes", "to_bytes", "fromhex", "hex",
                       "is_integer"})) {
      return MethodSupport::kUnsupported;
    }
  }
  return name.starts_with("__") ? MethodSupport::kUnsupported : MethodSupport::kNone;
}

Value CallMethod(Runtime& runtime, const Method& method, const Arguments& arguments) {
  const Value& receiver = method.receiver;
  if (receiver.is_string()) {
    return CallStringMethod(runtime, receiver.string(), method.name, arguments);
  }
  if (receiver.dict() != nullptr) {
    return CallDictMethod(runtime, *receiver.dict(), method.name, arguments);
  }
  if (receiver.list() != nullptr) {
    return CallListMethod(runtime, *receiver.list(), method.name, arguments);
  }
  const Loop& loop = *receiver.loop();  // only loop.cycle is left
  if (!CheckArguments(runtime, method.name, {{}, arguments.named}, {}, 0)) return Value();
  if (arguments.positional.empty()) return runtime.Fail("'cycle' without items");
  return arguments.positional[loop.index % arguments.positional.size()];
}

std::optional<Value> FindLoopAttribute(Runtime& runtime, const Loop& loop,
                                       const std::string& name) {
  const int64_t index = loop.index;
  const int64_t length = loop.items->size();
  if (name == "index") return Value::Integer(index + 1);
  if (name == "index0") return Value::Integer(index);
  if (name == "revindex") return Value::Integer(length - index);
  if (name == "revindex0") return Value::Integer(length - index - 1);
  if (name == "first") return Value::Boolean(index == 0);
  if (name == "last") return Value::Boolean(index == length - 1);
  if (name == "length") return Value::Integer(length);
  if (name == "depth") return Value::Integer(1);
  if (name == "depth0") return Value::Integer(0);
  if (name == "previtem") {
    return index == 0 ? Value::Undefined("there is no previous item") : (*loop.items)[index - 1];
  }
  if (name == "nextitem") {
    return index + 1 == length ? Value::Undefined("there is no next item")
                               : (*loop.items)[index + 1];
  }
  if (name == "cycle") {
    auto method = std::make_shared<Method>();
    method->receiver = Value::Of(std::make_shared<const Loop>(loop));
    method->name = name;
    return Value::Of(std::shared_ptr<const Method>(std::move(method)));
  }
  if (name == "changed" || name.starts_with("_")) {
    return runtime.FailUnimplemented(Message("'loop.", name, "'"));
  }
  return std::nullopt;
}

bool CheckArguments(Runtime& runtime, std::string_view callee, const Arguments& arguments,
                    Names names, size_t required) {
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

}  // namespace mambad::text::jinja
