#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/unicode.h"

// Filters of numbers, and of values of any kind.
namespace mambad::text::jinja {
namespace {

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

// The digits of a number as Python reads one: underscores only between digits. Nullopt: none.
std::optional<std::string> WithoutUnderscores(std::string_view text) {
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      digits.push_back(text[i]);
      continue;
    }
    const bool between = i > 0 && i + 1 < text.size() &&
                         absl::ascii_isalnum(static_cast<unsigned char>(text[i - 1])) &&
                         absl::ascii_isalnum(static_cast<unsigned char>(text[i + 1]));
    if (!between) return std::nullopt;
  }
  return digits;
}

// Python's float(text); nullopt when the text is no number.
std::optional<double> ParseFloat(std::string_view text) {
  const auto digits = WithoutUnderscores(Strip(text, std::nullopt, true, true));
  if (!digits.has_value() || digits->empty()) return std::nullopt;
  const std::string lower = absl::AsciiStrToLower(*digits);
  const size_t sign = lower[0] == '-' || lower[0] == '+';
  const std::string body = lower.substr(sign);
  const bool is_word = body == "inf" || body == "infinity" || body == "nan";
  if (!is_word && body.find_first_not_of("0123456789.e+-") != std::string::npos) {
    return std::nullopt;
  }
  char* end = nullptr;
  const double number = std::strtod(lower.c_str(), &end);
  if (end != lower.c_str() + lower.size()) return std::nullopt;
  return number;
}

// Python's int(text, base): sign, a mark of the base, digits. Nullopt: no number; `beyond` when it
// does not fit 64 bits.
std::optional<int64_t> ParseInteger(std::string_view text, int64_t base, bool* beyond) {
  const auto stripped = WithoutUnderscores(Strip(text, std::nullopt, true, true));
  if (!stripped.has_value()) return std::nullopt;
  std::string digits = absl::AsciiStrToLower(*stripped);
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) digits.erase(0, 1);
  const std::string_view mark = std::string_view(digits).substr(0, 2);
  const int marked = mark == "0x" ? 16 : mark == "0o" ? 8 : mark == "0b" ? 2 : 0;
  if (marked != 0 && (base == marked || base == 0)) {
    digits.erase(0, 2);
    base = marked;
  }
  if (base == 0) base = 10;
  if (digits.empty()) return std::nullopt;
  __int128 number = 0;
  for (char c : digits) {
    const int digit = absl::ascii_isdigit(static_cast<unsigned char>(c))   ? c - '0'
                      : absl::ascii_isalpha(static_cast<unsigned char>(c)) ? c - 'a' + 10
                                                                           : 99;
    if (digit >= base) return std::nullopt;
    if (number <= INT64_MAX) number = number * base + digit;
  }
  if (negative) number = -number;
  *beyond = number > INT64_MAX || number < INT64_MIN;
  return static_cast<int64_t>(number);
}

Value TruncateFloat(Runtime& runtime, double number) {
  if (number >= 9223372036854775808.0 || number < -9223372036854775808.0) {
    return runtime.FailUnimplemented("an integer beyond 64 bits");
  }
  return Value::Integer(static_cast<int64_t>(number));
}

Value Integer(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "int", arguments, {"default", "base"}, 0)) return Value();
  const Value* given = FindArgument(arguments, 0, "default");
  const Value absent = given == nullptr ? Value::Integer(0) : *given;
  const int64_t base = IntegerArgument(runtime, FindArgument(arguments, 1, "base"), 10);
  if (subject.is_undefined()) return runtime.FailUndefined(subject);
  if (subject.is_integral()) return Value::Integer(subject.integral());
  if (subject.is_float()) {
    if (std::isinf(subject.number())) return runtime.Fail("'int' of infinity");
    return std::isnan(subject.number()) ? absent : TruncateFloat(runtime, subject.number());
  }
  if (!subject.is_string() || !runtime.SpendBytes(subject.string().size())) return absent;
  if (base == 0 || (base >= 2 && base <= 36)) {
    bool beyond = false;
    const std::optional<int64_t> number = ParseInteger(subject.string(), base, &beyond);
    if (beyond) return runtime.FailUnimplemented("an integer beyond 64 bits");
    if (number.has_value()) return Value::Integer(*number);
  }
  const std::optional<double> number = ParseFloat(subject.string());
  if (!number.has_value() || !std::isfinite(*number)) return absent;
  return TruncateFloat(runtime, *number);
}

Value Float(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "float", arguments, {"default"}, 0)) return Value();
  const Value* given = FindArgument(arguments, 0, "default");
  if (subject.is_undefined()) return runtime.FailUndefined(subject);
  std::optional<double> number;
  if (subject.is_number()) number = subject.number();
  if (subject.is_string() && runtime.SpendBytes(subject.string().size())) {
    number = ParseFloat(subject.string());
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

// Python's round(number, precision): to the nearest, exactly halfway to the even digit.
double RoundFloat(double number, int64_t precision) {
  if (!std::isfinite(number) || precision > 400) return number;
  if (precision < -400) return std::copysign(0.0, number);
  if (precision < 0) {
    const double power = std::pow(10.0, static_cast<double>(-precision));
    return std::nearbyint(number / power) * power;
  }
  // printf rounds the exact value of the number.
  char text[1024];
  std::snprintf(text, sizeof(text), "%.*f", static_cast<int>(precision), number);
  return std::strtod(text, nullptr);
}

Value Round(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "round", arguments, {"precision", "method"}, 0)) return Value();
  const int64_t precision = IntegerArgument(runtime, FindArgument(arguments, 0, "precision"), 0);
  const Value* given = FindArgument(arguments, 1, "method");
  const std::string method = given == nullptr ? "common" : ToText(runtime, *given);
  if (method != "common" && method != "ceil" && method != "floor") {
    return runtime.Fail("'round' knows the methods common, ceil and floor");
  }
  if (subject.is_undefined()) return runtime.FailUndefined(subject);
  if (!subject.is_number()) return runtime.Fail(Message("'round' of a ", subject.KindName()));
  if (method == "common") {
    if (!subject.is_integral()) return Value::Float(RoundFloat(subject.number(), precision));
    if (precision >= 0) return Value::Integer(subject.integral());
    return runtime.FailUnimplemented("'round' of an integer to tens");
  }
  if (!std::isfinite(subject.number())) return runtime.Fail("'round' of what is not finite");
  const double power = std::pow(10.0, static_cast<double>(precision));
  const double scaled = subject.number() * power;
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / power);
}

// --- Any kind ---

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

Value Attribute(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "attr", arguments, {"name"}, 1)) return Value();
  return GetOwnAttribute(runtime, subject, ToText(runtime, *FindArgument(arguments, 0, "name")));
}

constexpr std::array kFilters = {
    FilterEntry{"abs", Absolute},    FilterEntry{"attr", Attribute}, FilterEntry{"d", Default},
    FilterEntry{"default", Default}, FilterEntry{"float", Float},    FilterEntry{"int", Integer},
    FilterEntry{"round", Round},     FilterEntry{"tojson", Json},
};

}  // namespace

Filter FindValueFilter(std::string_view name) { return FindIn(kFilters, name); }

}  // namespace mambad::text::jinja
