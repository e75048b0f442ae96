#include "engine/text/jinja/filters.h"

#include <array>
#include <charconv>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/unicode.h"
#include "engine/text/jinja/unicode_case.h"

namespace mambad::text::jinja {

Value FollowPath(Runtime& runtime, Value item, const Value& path, const Value* fallback) {
  if (!path.is_string()) return GetItem(runtime, item, path);
  for (std::string_view part : Split(path.string(), ".", -1)) {
    if (!runtime.SpendSteps(1)) return Value();
    int64_t index = 0;
    const auto number = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = !part.empty() && part[0] != '-' && number.ec == std::errc() &&
                          number.ptr == part.data() + part.size();
    item =
        GetItem(runtime, item, is_index ? Value::Integer(index) : Value::String(std::string(part)));
    if (fallback != nullptr && !fallback->is_none() && item.is_undefined()) item = *fallback;
  }
  return item;
}

Value KeyOf(Runtime& runtime, const Value& item, const Value* attribute, bool case_sensitive) {
  Value key = attribute == nullptr || attribute->is_none()
                  ? item
                  : FollowPath(runtime, item, *attribute, nullptr);
  if (case_sensitive || !key.is_string() || !runtime.SpendBytes(key.string().size())) return key;
  return runtime.MakeString(ToLower(key.string()));
}

namespace {

// --- Filters that apply filters and tests ---

// The name of a filter or test given as argument number `index`, and the arguments after it.
std::optional<std::string> TakeCallee(Runtime& runtime, const Arguments& arguments, size_t index,
                                      Arguments* rest) {
  if (index >= arguments.positional.size() || !arguments.positional[index].is_string()) {
    runtime.Fail("expected the name of a filter or test as argument");
    return std::nullopt;
  }
  rest->positional.assign(arguments.positional.begin() + index + 1, arguments.positional.end());
  rest->named = arguments.named;
  return arguments.positional[index].string();
}

Value Map(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  Values results;
  if (!IsTrue(subject)) return runtime.MakeList({}, List::Kind::kIterator);
  const Value* attribute =
      arguments.positional.empty() ? FindArgument(arguments, 0, "attribute") : nullptr;
  if (attribute != nullptr) {
    if (!CheckArguments(runtime, "map", arguments, {"attribute", "default"}, 1)) return Value();
    const Value* fallback = FindArgument(arguments, 1, "default");
    for (const Value& element : Elements(runtime, subject)) {
      if (!runtime.ok()) return Value();
      results.push_back(FollowPath(runtime, element, *attribute, fallback));
    }
    return runtime.MakeList(std::move(results), List::Kind::kIterator);
  }
  Arguments rest;
  const std::optional<std::string> filter = TakeCallee(runtime, arguments, 0, &rest);
  if (!filter.has_value()) return Value();
  for (const Value& element : Elements(runtime, subject)) {
    if (!runtime.ok()) return Value();
    results.push_back(ApplyFilter(runtime, *filter, element, rest));
  }
  return runtime.MakeList(std::move(results), List::Kind::kIterator);
}

template <bool kKeep, bool kByAttribute>
Value Select(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!IsTrue(subject)) return runtime.MakeList({}, List::Kind::kIterator);
  if (kByAttribute && arguments.positional.empty()) {
    return runtime.Fail("expected the name of an attribute as argument");
  }
  const size_t test_index = kByAttribute ? 1 : 0;
  std::optional<std::string> test;
  Arguments rest;
  if (arguments.positional.size() > test_index) {
    test = TakeCallee(runtime, arguments, test_index, &rest);
  }
  Values results;
  for (const Value& element : Elements(runtime, subject)) {
    if (!runtime.ok()) return Value();
    const Value tested =
        kByAttribute ? FollowPath(runtime, element, arguments.positional[0], nullptr) : element;
    const bool passes = test.has_value() ? ApplyTest(runtime, *test, tested, rest) : IsTrue(tested);
    if (passes == kKeep) results.push_back(element);
  }
  return runtime.MakeList(std::move(results), List::Kind::kIterator);
}

constexpr std::array kFilters = {
    FilterEntry{"map", Map},
    FilterEntry{"reject", Select<false, false>},
    FilterEntry{"rejectattr", Select<false, true>},
    FilterEntry{"select", Select<true, false>},
    FilterEntry{"selectattr", Select<true, true>},
};

Filter FindFilter(std::string_view name) {
  for (const auto find : {FindTextFilter, FindValueFilter, FindSequenceFilter}) {
    if (const Filter filter = find(name)) return filter;
  }
  return FindIn(kFilters, name);
}

}  // namespace

bool IsKnownFilter(std::string_view name) { return FindFilter(name) != nullptr; }

Value ApplyFilter(Runtime& runtime, const std::string& name, const Value& subject,
                  const Arguments& arguments) {
  const Filter filter = FindFilter(name);
  if (filter == nullptr) return runtime.FailUnimplemented(Message("filter '", name, "'"));
  Runtime::Depth depth(runtime);
  if (!runtime.SpendSteps(1)) return Value();
  return filter(runtime, subject, arguments);
}

}  // namespace mambad::text::jinja
