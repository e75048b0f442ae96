#include <array>
#include <cmath>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/unicode.h"
#include "engine/text/jinja/unicode_case.h"

namespace mambad::text::jinja {
namespace {

using Test = bool (*)(Runtime&, const Value& subject, const Value* argument);

bool IsSequence(const Value& value) {
  if (value.is_string() || value.is_undefined() || value.dict() != nullptr) return true;
  return value.list() != nullptr && value.list()->is_indexable();
}

bool IsIterable(const Value& value) {
  return value.is_string() || value.is_undefined() || value.dict() != nullptr ||
         value.list() != nullptr || value.loop() != nullptr;
}

// subject % divisor == expected
bool HasRemainder(Runtime& runtime, const Value& subject, const Value& divisor, int64_t expected) {
  const Value remainder = ApplyBinary(runtime, "%", subject, divisor);
  return runtime.ok() && remainder.number() == expected;
}

// str.isupper or str.islower of the value's text.
bool IsOfCase(Runtime& runtime, const Value& value, bool (*wanted)(uint32_t),
              bool (*unwanted)(uint32_t)) {
  const std::string text = ToText(runtime, value);
  bool any = false;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    const uint32_t code_point = CodePointAt(text, at);
    if (unwanted(code_point) || IsTitle(code_point)) return false;
    any |= wanted(code_point);
  }
  return any;
}

// The reference looks the value up in a table of names; what no table can have as its key fails.
bool IsKnownName(Runtime& runtime, const Value& value, bool (*known)(std::string_view)) {
  if (!IsHashable(value)) {
    runtime.Fail(Message("a ", value.KindName(), " cannot be a name"));
    return false;
  }
  return value.is_string() && known(value.string());
}

struct Entry {
  std::string_view name;
  bool takes_argument;
  Test test;
};

constexpr std::array kTests = {
    Entry{"defined", false,
          [](Runtime&, const Value& v, const Value*) { return !v.is_undefined(); }},
    Entry{"undefined", false,
          [](Runtime&, const Value& v, const Value*) { return v.is_undefined(); }},
    Entry{"none", false, [](Runtime&, const Value& v, const Value*) { return v.is_none(); }},
    Entry{"string", false, [](Runtime&, const Value& v, const Value*) { return v.is_string(); }},
    Entry{"mapping", false,
          [](Runtime&, const Value& v, const Value*) { return v.dict() != nullptr; }},
    Entry{"sequence", false, [](Runtime&, const Value& v, const Value*) { return IsSequence(v); }},
    Entry{"iterable", false, [](Runtime&, const Value& v, const Value*) { return IsIterable(v); }},
    Entry{"callable", false,
          [](Runtime&, const Value& v, const Value*) {
            return v.macro() != nullptr || v.method() != nullptr || v.function() != nullptr ||
                   v.loop() != nullptr || v.counter() != nullptr || v.is_undefined();
          }},
    Entry{"number", false, [](Runtime&, const Value& v, const Value*) { return v.is_number(); }},
    Entry{"integer", false, [](Runtime&, const Value& v, const Value*) { return v.is_integer(); }},
    Entry{"float", false, [](Runtime&, const Value& v, const Value*) { return v.is_float(); }},
    Entry{"boolean", false, [](Runtime&, const Value& v, const Value*) { return v.is_boolean(); }},
    Entry{"true", false,
          [](Runtime&, const Value& v, const Value*) { return v.is_boolean() && v.boolean(); }},
    Entry{"false", false,
          [](Runtime&, const Value& v, const Value*) { return v.is_boolean() && !v.boolean(); }},
    Entry{"odd", false,
          [](Runtime& r, const Value& v, const Value*) {
            return HasRemainder(r, v, Value::Integer(2), 1);
          }},
    Entry{"even", false,
          [](Runtime& r, const Value& v, const Value*) {
            return HasRemainder(r, v, Value::Integer(2), 0);
          }},
    Entry{"divisibleby", true,
          [](Runtime& r, const Value& v, const Value* a) { return HasRemainder(r, v, *a, 0); }},
    Entry{
        "lower", false,
        [](Runtime& r, const Value& v, const Value*) { return IsOfCase(r, v, IsLower, IsUpper); }},
    Entry{
        "upper", false,
        [](Runtime& r, const Value& v, const Value*) { return IsOfCase(r, v, IsUpper, IsLower); }},
    Entry{"escaped", false, [](Runtime&, const Value& v, const Value*) { return v.is_markup(); }},
    Entry{"sameas", true, [](Runtime&, const Value& v, const Value* a) { return v.IsSame(*a); }},
    Entry{
        "filter", false,
        [](Runtime& r, const Value& v, const Value*) { return IsKnownName(r, v, IsKnownFilter); }},
    Entry{"test", false,
          [](Runtime& r, const Value& v, const Value*) { return IsKnownName(r, v, IsKnownTest); }},
    Entry{"in", true,
          [](Runtime& r, const Value& v, const Value* a) { return Contains(r, *a, v); }},
    Entry{"eq", true,
          [](Runtime& r, const Value& v, const Value* a) { return AreEqual(r, v, *a); }},
    Entry{"ne", true,
          [](Runtime& r, const Value& v, const Value* a) { return !AreEqual(r, v, *a); }},
    Entry{"lt", true,
          [](Runtime& r, const Value& v, const Value* a) { return IsLess(r, v, *a, false); }},
    Entry{"le", true,
          [](Runtime& r, const Value& v, const Value* a) { return IsLess(r, v, *a, true); }},
    Entry{"gt", true,
          [](Runtime& r, const Value& v, const Value* a) { return IsLess(r, *a, v, false); }},
    Entry{"ge", true,
          [](Runtime& r, const Value& v, const Value* a) { return IsLess(r, *a, v, true); }},
};

// Other names of the comparisons; the signs can only be passed to "selectattr" and its like.
constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kAliases = {{
    {"==", "eq"},
    {"equalto", "eq"},
    {"!=", "ne"},
    {"<", "lt"},
    {"lessthan", "lt"},
    {"<=", "le"},
    {">", "gt"},
    {"greaterthan", "gt"},
    {">=", "ge"},
    {"=", ""},
}};

const Entry* FindTest(std::string_view name) {
  for (const auto& [alias, proper] : kAliases) {
    if (name == alias) name = proper;
  }
  for (const Entry& entry : kTests) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

}  // namespace

bool IsKnownTest(std::string_view name) { return FindTest(name) != nullptr; }

bool ApplyTest(Runtime& runtime, const std::string& name, const Value& subject,
               const Arguments& arguments) {
  const Entry* entry = FindTest(name);
  if (entry == nullptr) {
    runtime.FailUnimplemented(Message("test '", name, "'"));
    return false;
  }
  const bool fits = entry->takes_argument ? CheckArguments(runtime, name, arguments, {""}, 1)
                                          : CheckArguments(runtime, name, arguments, {}, 0);
  if (!fits) return false;
  return entry->test(runtime, subject, FindArgument(arguments, 0, ""));
}

}  // namespace mambad::text::jinja
