#include "engine/text/jinja/methods.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/string_methods.h"

namespace mambad::text::jinja {
namespace {

bool IsAmong(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Value CallDictMethod(Runtime& runtime, const Value& receiver, const std::string& name,
                     const Arguments& arguments) {
  const Dict& dict = *receiver.dict();
  if (name == "get") {
    if (!CheckArguments(runtime, name, arguments, {"", ""}, 1)) return Value();
    if (!IsHashable(arguments.positional[0])) return runtime.Fail("'get' with a key of that kind");
    const Value* value = FindKey(runtime, dict, arguments.positional[0]);
    if (value != nullptr) return *value;
    return arguments.positional.size() > 1 ? arguments.positional[1] : Value::None();
  }
  if (!CheckArguments(runtime, name, arguments, {}, 0)) return Value();
  if (name == "copy") return receiver;  // nothing can change it
  Values items;
  for (const auto& [key, value] : dict.entries) {
    if (!runtime.SpendSteps(1)) return Value();
    items.push_back(name == "keys"     ? key
                    : name == "values" ? value
                                       : runtime.MakeList({key, value}, List::Kind::kTuple));
  }
  return runtime.MakeList(std::move(items), name == "keys"     ? List::Kind::kKeys
                                            : name == "values" ? List::Kind::kValues
                                                               : List::Kind::kItems);
}

Value CallListMethod(Runtime& runtime, const Value& receiver, const std::string& name,
                     const Arguments& arguments) {
  if (name == "copy") {
    return CheckArguments(runtime, name, arguments, {}, 0) ? receiver : Value();
  }
  if (!CheckArguments(runtime, name, arguments, {"", "", ""}, 1)) return Value();
  const List& list = *receiver.list();
  const int64_t size = list.items.size();
  int64_t bounds[2] = {0, size};
  for (size_t i = 1; i < arguments.positional.size(); ++i) {
    if (name == "count") return runtime.Fail("'count' takes one argument");
    const int64_t bound = IntegerArgument(runtime, &arguments.positional[i], 0);
    bounds[i - 1] =
        std::clamp<int64_t>(bound < 0 && bound >= -size ? bound + size : bound, 0, size);
  }
  int64_t count = 0;
  for (int64_t i = bounds[0]; i < bounds[1] && runtime.ok(); ++i) {
    if (!AreEqual(runtime, list.items[i], arguments.positional[0])) continue;
    if (name == "index") return Value::Integer(i);
    ++count;
  }
  if (name == "index") return runtime.Fail("'index' of a value that is not in the list");
  return Value::Integer(count);
}

Value CallNumberMethod(Runtime& runtime, const Value& number, const std::string& name,
                       const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {}, 0)) return Value();
  if (name == "is_integer") {
    return Value::Boolean(!number.is_float() || (std::isfinite(number.number()) &&
                                                 std::floor(number.number()) == number.number()));
  }
  int64_t bits = 0;
  for (uint64_t rest = number.integral() < 0 ? -static_cast<uint64_t>(number.integral())
                                             : static_cast<uint64_t>(number.integral());
       rest > 0; rest /= 2) {
    ++bits;
  }
  return Value::Integer(bits);
}

Value CallLoopMethod(Runtime& runtime, const Method& method, const Arguments& arguments) {
  Loop& loop = *method.receiver.loop();
  if (!CheckArguments(runtime, method.name, {{}, arguments.named}, {}, 0)) return Value();
  if (method.name == "changed") {
    Value values = runtime.MakeList(arguments.positional, List::Kind::kTuple);
    const bool changed =
        !loop.last_changed.has_value() || !AreEqual(runtime, *loop.last_changed, values);
    if (changed) loop.last_changed = std::move(values);
    return Value::Boolean(changed);
  }
  if (arguments.positional.empty()) return runtime.Fail("'cycle' without items");
  return arguments.positional[loop.index % arguments.positional.size()];
}

Value CallCyclerMethod(Runtime& runtime, Counter& cycler, const std::string& name,
                       const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {}, 0)) return Value();
  if (name == "reset") {
    cycler.index = 0;
    return Value::None();
  }
  return cycler.items[cycler.index++ % cycler.items.size()];
}

}  // namespace

MethodSupport FindMethod(const Value& receiver, std::string_view name) {
  if (receiver.is_string()) return FindStringMethod(name);
  if (receiver.dict() != nullptr) {
    if (IsAmong(name, {"items", "keys", "values", "get", "copy"})) return MethodSupport::kSupported;
    if (name == "fromkeys") return MethodSupport::kUnsupported;
    return MethodSupport::kNone;
  }
  if (const List* list = receiver.list()) {
    const bool has_search = list->is_indexable();
    if (has_search && IsAmong(name, {"count", "index"})) return MethodSupport::kSupported;
    if (list->kind == List::Kind::kList && name == "copy") return MethodSupport::kSupported;
    return MethodSupport::kNone;
  }
  if (receiver.counter() != nullptr && !receiver.counter()->is_joiner) {
    return IsAmong(name, {"next", "reset"}) ? MethodSupport::kSupported : MethodSupport::kNone;
  }
  if (receiver.is_number()) {
    if (name == "is_integer" && receiver.is_float()) return MethodSupport::kSupported;
    if (name == "bit_length" && !receiver.is_float()) return MethodSupport::kSupported;
    if (IsAmong(name, {"real", "imag", "conjugate", "as_integer_ratio", "bit_count", "denominator",
                       "numerator", "from_bytes", "to_bytes", "fromhex", "hex", "is_integer"})) {
      return MethodSupport::kUnsupported;
    }
  }
  return MethodSupport::kNone;
}

Value CallMethod(Runtime& runtime, const Method& method, const Arguments& arguments) {
  const Value& receiver = method.receiver;
  if (receiver.is_string()) return CallStringMethod(runtime, receiver, method.name, arguments);
  if (receiver.dict() != nullptr) {
    return CallDictMethod(runtime, receiver, method.name, arguments);
  }
  if (receiver.list() != nullptr) {
    return CallListMethod(runtime, receiver, method.name, arguments);
  }
  if (receiver.counter() != nullptr) {
    return CallCyclerMethod(runtime, *receiver.counter(), method.name, arguments);
  }
  if (receiver.is_number()) return CallNumberMethod(runtime, receiver, method.name, arguments);
  return CallLoopMethod(runtime, method, arguments);
}

std::optional<Value> FindLoopAttribute(const Value& value, const std::string& name) {
  Loop& loop = *value.loop();
  const int64_t index = loop.index;
  auto length = [&loop] { return static_cast<int64_t>(loop.Length()); };
  if (name == "index") return Value::Integer(index + 1);
  if (name == "index0") return Value::Integer(index);
  if (name == "revindex") return Value::Integer(length() - index);
  if (name == "revindex0") return Value::Integer(length() - index - 1);
  if (name == "first") return Value::Boolean(index == 0);
  if (name == "last") return Value::Boolean(!loop.Has(index + 1));
  if (name == "length") return Value::Integer(length());
  if (name == "depth") return Value::Integer(loop.depth);
  if (name == "depth0") return Value::Integer(loop.depth - 1);
  if (name == "previtem") {
    return index == 0 ? Value::Undefined("there is no previous item") : loop.items[index - 1];
  }
  if (name == "nextitem") {
    return loop.Has(index + 1) ? loop.items[index + 1] : Value::Undefined("there is no next item");
  }
  if (name == "cycle" || name == "changed") {
    return Value::Of(std::make_shared<const Method>(Method{value, name}));
  }
  return std::nullopt;
}

}  // namespace mambad::text::jinja
