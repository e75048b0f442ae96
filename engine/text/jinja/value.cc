#include "engine/text/jinja/value.h"

namespace mambad::text::jinja {

Value Value::Undefined(std::string_view name) {
  return Value(UndefinedType{std::make_shared<const std::string>(name)});
}

const std::string& Value::undefined_name() const {
  static const std::string* const kUnknown = new std::string("value");
  const Text& name = std::get<UndefinedType>(data_).name;
  return name == nullptr ? *kUnknown : *name;
}

bool Value::is_plain() const {
  return name_space() == nullptr && method() == nullptr && loop() == nullptr &&
         counter() == nullptr;
}

bool Value::holds_namespace() const {
  if (list() != nullptr) return list()->holds_namespace;
  if (dict() != nullptr) return dict()->holds_namespace;
  return name_space() != nullptr;
}

std::string_view Value::KindName() const {
  if (is_undefined()) return "undefined";
  if (is_none()) return "none";
  if (is_boolean()) return "bool";
  if (is_integer()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "str";
  if (const List* items = list()) {
    switch (items->kind) {
      case List::Kind::kList:
        return "list";
      case List::Kind::kTuple:
      case List::Kind::kGroup:
        return "tuple";
      case List::Kind::kRange:
        return "range";
      case List::Kind::kKeys:
      case List::Kind::kValues:
      case List::Kind::kItems:
        return "view";
      case List::Kind::kIterator:
        return "iterator";
    }
  }
  if (dict() != nullptr) return "dict";
  if (name_space() != nullptr) return "namespace";
  if (loop() != nullptr) return "loop";
  if (counter() != nullptr) return counter()->is_joiner ? "joiner" : "cycler";
  return macro() != nullptr ? "macro" : "function";
}

bool Value::IsSame(const Value& other) const {
  if (data_.index() != other.data_.index()) return false;
  if (is_boolean()) return boolean() == other.boolean();
  if (is_integer()) return integral() == other.integral();
  if (is_float()) return number() == other.number();
  if (is_string()) return string() == other.string();
  if (function() != nullptr) return *function() == *other.function();
  return list() == other.list() && dict() == other.dict() && name_space() == other.name_space() &&
         method() == other.method() && loop() == other.loop() && macro() == other.macro() &&
         counter() == other.counter();
}

}  // namespace mambad::text::jinja
