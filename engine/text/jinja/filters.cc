#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/methods.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/unicode.h"

namespace mambad::text::jinja {
namespace {

using Filter = Value (*)(Runtime&, const Value& subject, const Arguments& arguments);

// --- Text ---

// A string method applied to str(subject).
Value CallOnText(Runtime& runtime, const Value& subject, const char* method, Arguments arguments) {
  Value text = Value::String(ToText(runtime, subject));
  if (!runtime.ok()) return Value();
  return CallMethod(runtime, Method{std::move(text), method}, arguments);
}

Value Trim(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "trim", arguments, {"chars"}, 0)) return Value();
  const Value* characters = FindArgument(arguments, 0, "chars");
  Arguments passed;
  if (characters != nullptr) passed.positional.push_back(*characters);
  return CallOnText(runtime, subject, "strip", std::move(passed));
}

Value ReplaceInText(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "replace", arguments, {"old", "new", "count"}, 2)) return Value();
  Arguments passed;
  for (size_t i = 0; i < 2; ++i) {
    passed.positional.push_back(
        Value::String(ToText(runtime, *FindArgument(arguments, i, i == 0 ? "old" : "new"))));
  }
  const Value* count = FindArgument(arguments, 2, "count");
  if (count != nullptr && !count->is_none()) passed.positional.push_back(*count);
  return CallOnText(runtime, subject, "replace", std::move(passed));
}

// The filter's words begin after any of - ( { [ < and whitespace, unlike those of str.title().
Value Title(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "title", arguments, {}, 0)) return Value();
  std::string text = ToText(runtime, subject);
  if (!IsAscii(text)) return runtime.FailUnimplemented("'title' of letters beyond ASCII");
  bool at_start = true;
  for (char& letter : text) {
    const bool separates = IsSpace(static_cast<unsigned char>(letter)) ||
                           std::string_view("-({[<").find(letter) != std::string_view::npos;
    const std::string one(1, letter);
    letter = at_start ? AsciiUpper(one)[0] : AsciiLower(one)[0];
    at_start = separates;
  }
  return runtime.MakeString(std::move(text));
}

template <const char* kMethod>
Value ChangeCase(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, kMethod, arguments, {}, 0)) return Value();
  return CallOnText(runtime, subject, kMethod, {});
}
constexpr char kUpper[] = "upper";
constexpr char kLower[] = "lower";
constexpr char kCapitalize[] = "capitalize";

Value String(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "string", arguments, {}, 0)) return Value();
  if (subject.is_string()) return subject;
  return runtime.MakeString(ToText(runtime, subject));
}

Value Json(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "tojson", arguments,
                      {"ensure_ascii", "indent", "separators", "sort_keys"}, 0)) {
    return Value();
  }
  JsonOptions options;
  if (const Value* ascii = FindArgument(arguments, 0, "ensure_ascii")) {
    options.ensure_ascii = IsTrue(*ascii);
  }
  const Value* indent = FindArgument(arguments, 1, "indent");
  if (indent != nullptr && !indent->is_none()) {
    options.has_indent = true;
    options.item_separator = ",";
    if (indent->is_string()) {
      options.indent = indent->string();
    } else {
      const int64_t width = IntegerArgument(runtime, indent, 0);
      if (width > 64) return runtime.Fail("'tojson' with an indent of more than 64");
      options.indent = std::string(std::max<int64_t>(width, 0), ' ');
    }
    if (options.indent.size() > 64) return runtime.Fail("'tojson' with an indent of more than 64");
  }
  const Value* separators = FindArgument(arguments, 2, "separators");
  if (separators != nullptr && !separators->is_none()) {
    const List* pair = separators->list();
    if (pair == nullptr || pair->items.size() != 2 || !pair->items[0].is_string() ||
        !pair->items[1].is_string() ||
        pair->items[0].string().size() + pair->items[1].string().size() > 64) {
      return runtime.Fail("'tojson' needs two short strings as separators");
    }
    options.item_separator = pair->items[0].string();
    options.key_separator = pair->items[1].string();
  }
  if (const Value* sort = FindArgument(arguments, 3, "sort_keys")) {
    options.sort_keys = IsTrue(*sort);
  }
  return runtime.MakeString(ToJson(runtime, subject, options));
}

// --- Numbers ---

// Python's float(text), less its spellings of infinity; nullopt when the text is no number.
std::optional<double> ParseFloat(std::string_view text) {
  text = Strip(text, std::nullopt, true, true);
  if (text.starts_with('+')) text.remove_prefix(1);
  const size_t digits = text.starts_with('-') ? 1 : 0;
  if (text.size() <= digits ||
      !(text[digits] == '.' || (text[digits] >= '0' && text[digits] <= '9'))) {
    return std::nullopt;
  }
  double number = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
  if (result.ec == std::errc::invalid_argument || result.ptr != text.data() + text.size()) {
    return std::nullopt;
  }
  if (result.ec == std::errc::result_out_of_range) return std::nullopt;
  return number;
}

Value TruncateFloat(Runtime& runtime, double number, const Value& absent) {
  if (!std::isfinite(number)) return absent;
  if (number >= 9223372036854775808.0 || number < -9223372036854775808.0) {
    return runtime.FailUnimplemented("an integer beyond 64 bits");
  }
  return Value::Integer(static_cast<int64_t>(number));
}

Value Integer(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "int", arguments, {"default", "base"}, 0)) return Value();
  const Value* given = FindArgument(arguments, 0, "default");
  const Value absent = given == nullptr ? Value::Integer(0) : *given;
  if (IntegerArgument(runtime, FindArgument(arguments, 1, "base"), 10) != 10) {
    return runtime.FailUnimplemented("'int' with a base other than 10");
  }
  if (subject.is_undefined()) return runtime.FailUndefined(subject);
  if (subject.is_integral()) return Value::Integer(subject.integral());
  if (subject.is_float()) return TruncateFloat(runtime, subject.number(), absent);
  if (!subject.is_string()) return absent;
  runtime.SpendBytes(subject.string().size());
  std::string_view text = Strip(subject.string(), std::nullopt, true, true);
  if (text.find('_') != std::string_view::npos || !IsAscii(text)) {
    return runtime.FailUnimplemented("'int' of such a text");
  }
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  int64_t number = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
  if (result.ptr == text.data() + text.size() && !text.empty()) {
    if (result.ec == std::errc()) return Value::Integer(number);
    if (result.ec == std::errc::result_out_of_range) {
      return runtime.FailUnimplemented("an integer beyond 64 bits");
    }
  }
  const std::optional<double> parsed = ParseFloat(subject.string());
  return parsed.has_value() ? TruncateFloat(runtime, *parsed, absent) : absent;
}

Value Float(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "float", arguments, {"default"}, 0)) return Value();
  const Value* given = FindArgument(arguments, 0, "default");
  if (subject.is_undefined()) return runtime.FailUndefined(subject);
  std::optional<double> number;
  if (subject.is_number()) number = subject.number();
  if (subject.is_string()) {
    const std::string& text = subject.string();
    runtime.SpendBytes(text.size());
    if (!IsAscii(text) || text.find_first_of("_iInN") != std::string::npos) {
      return runtime.FailUnimplemented("'float' of such a text");
    }
    number = ParseFloat(text);
  }
  if (number.has_value()) return Value::Float(*number);
  return given == nullptr ? Value::Float(0) : *given;
}

Value Absolute(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "abs", arguments, {}, 0)) return Value();
  if (subject.is_float()) return Value::Float(std::fabs(subject.number()));
  if (!subject.is_integral()) return runtime.Fail(Message("'abs' of a ", subject.KindName()));
  return subject.integral() < 0 ? Negate(runtime, subject) : Value::Integer(subject.integral());
}

// --- Sequences ---

Value LengthOf(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "length", arguments, {}, 0)) return Value();
  const std::optional<int64_t> length = Length(runtime, subject);
  if (!length.has_value()) {
    return runtime.Fail(Message("a ", subject.KindName(), " has no length"));
  }
  return Value::Integer(*length);
}

Value First(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "first", arguments, {}, 0)) return Value();
  Values elements = Elements(runtime, subject);
  return elements.empty() ? Value::Undefined("first item of nothing") : elements.front();
}

Value Last(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "last", arguments, {}, 0)) return Value();
  if (subject.list() != nullptr && subject.list()->kind == List::Kind::kIterator) {
    return runtime.Fail("'last' of the result of a filter needs '|list' before it");
  }
  Values elements = Elements(runtime, subject);
  return elements.empty() ? Value::Undefined("last item of nothing") : elements.back();
}

Value ToList(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "list", arguments, {}, 0)) return Value();
  return runtime.MakeList(Elements(runtime, subject));
}

Value Reverse(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "reverse", arguments, {}, 0)) return Value();
  if (subject.is_string()) {
    runtime.SpendBytes(subject.string().size());
    std::string text;
    const std::vector<std::string_view> characters = SplitCharacters(subject.string());
    for (auto at = characters.rbegin(); at != characters.rend(); ++at) text.append(*at);
    return runtime.MakeString(std::move(text));
  }
  const bool is_iterator =
      subject.list() != nullptr && subject.list()->kind == List::Kind::kIterator;
  Values elements = Elements(runtime, subject);
  std::reverse(elements.begin(), elements.end());
  return runtime.MakeList(std::move(elements),
                          is_iterator ? List::Kind::kList : List::Kind::kIterator);
}

Value Items(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "items", arguments, {}, 0)) return Value();
  Values items;
  if (subject.dict() != nullptr) {
    for (const auto& [key, value] : subject.dict()->entries) {
      items.push_back(runtime.MakeList({key, value}, List::Kind::kTuple));
    }
  } else if (!subject.is_undefined()) {
    return runtime.Fail(Message("'items' of a ", subject.KindName()));
  }
  return runtime.MakeList(std::move(items), List::Kind::kIterator);
}

// The part of `item` that a path of names and numbers such as "function.name" leads to.
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

Value Join(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "join", arguments, {"d", "attribute"}, 0)) return Value();
  const Value* separator = FindArgument(arguments, 0, "d");
  const std::string between = separator == nullptr ? "" : ToText(runtime, *separator);
  const Value* attribute = FindArgument(arguments, 1, "attribute");
  std::string text;
  bool first = true;
  for (const Value& element : Elements(runtime, subject)) {
    if (!first) text += between;
    first = false;
    text += ToText(runtime, attribute == nullptr || attribute->is_none()
                                ? element
                                : FollowPath(runtime, element, *attribute, nullptr));
    if (text.size() > Runtime::kMaximumTextBytes || !runtime.ok()) break;
  }
  return runtime.MakeString(std::move(text));
}

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
  // A filter that applies filters could be made to call itself without end.
  if (filter == "map" || filter == "select" || filter == "reject") {
    return runtime.FailUnimplemented("'map' with a filter that applies others");
  }
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

Value Default(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "default", arguments, {"default_value", "boolean"}, 0)) {
    return Value();
  }
  const Value* fallback = FindArgument(arguments, 0, "default_value");
  const Value* boolean = FindArgument(arguments, 1, "boolean");
  const bool replace =
      subject.is_undefined() || (boolean != nullptr && IsTrue(*boolean) && !IsTrue(subject));
  if (!replace) return subject;
  return fallback == nullptr ? Value::String("") : *fallback;
}

struct Entry {
  std::string_view name;
  Filter filter;
};

constexpr std::array kFilters = {
    Entry{"abs", Absolute},
    Entry{"capitalize", ChangeCase<kCapitalize>},
    Entry{"count", LengthOf},
    Entry{"d", Default},
    Entry{"default", Default},
    Entry{"first", First},
    Entry{"float", Float},
    Entry{"int", Integer},
    Entry{"items", Items},
    Entry{"join", Join},
    Entry{"last", Last},
    Entry{"length", LengthOf},
    Entry{"list", ToList},
    Entry{"lower", ChangeCase<kLower>},
    Entry{"map", Map},
    Entry{"reject", Select<false, false>},
    Entry{"rejectattr", Select<false, true>},
    Entry{"replace", ReplaceInText},
    Entry{"reverse", Reverse},
    Entry{"select", Select<true, false>},
    Entry{"selectattr", Select<true, true>},
    Entry{"string", String},
    Entry{"title", Title},
    Entry{"tojson", Json},
    Entry{"trim", Trim},
    Entry{"upper", ChangeCase<kUpper>},
};

const Entry* FindFilter(std::string_view name) {
  for (const Entry& entry : kFilters) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

}  // namespace

bool IsKnownFilter(std::string_view name) { return FindFilter(name) != nullptr; }

Value ApplyFilter(Runtime& runtime, const std::string& name, const Value& subject,
                  const Arguments& arguments) {
  const Entry* entry = FindFilter(name);
  if (entry == nullptr) return runtime.FailUnimplemented(Message("filter '", name, "'"));
  if (!runtime.SpendSteps(1)) return Value();
  return entry->filter(runtime, subject, arguments);
}

}  // namespace mambad::text::jinja
