#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/string_format.h"
#include "engine/text/jinja/string_methods.h"
#include "engine/text/jinja/unicode.h"
#include "engine/text/jinja/unicode_case.h"

// Filters that take the subject as text.
namespace mambad::text::jinja {
namespace {

// The subject as a string; a markup stays one.
Value AsText(Runtime& runtime, const Value& subject) {
  return subject.is_string() ? subject : runtime.MakeString(ToText(runtime, subject));
}

// A string method applied to str(subject).
Value CallOnText(Runtime& runtime, const Value& subject, const char* method,
                 const Arguments& arguments) {
  const Value text = AsText(runtime, subject);
  return runtime.ok() ? CallStringMethod(runtime, text, method, arguments) : Value();
}

Value Trim(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "trim", arguments, {"chars"}, 0)) return Value();
  const Value* characters = FindArgument(arguments, 0, "chars");
  Arguments passed;
  if (characters != nullptr) passed.positional.push_back(*characters);
  return CallOnText(runtime, subject, "strip", passed);
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
  const Value text = Value::String(ToText(runtime, subject));
  return runtime.ok() ? CallStringMethod(runtime, text, "replace", passed) : Value();
}

// The filter's words begin after any of - ( { [ < and whitespace, unlike those of str.title().
Value Title(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "title", arguments, {}, 0)) return Value();
  const std::string text = ToText(runtime, subject);
  if (!runtime.SpendBytes(4 * text.size())) return Value();
  std::string result;
  auto separates = [&text](size_t at) {
    return IsSpace(CodePointAt(text, at)) ||
           std::string_view("-({[<").find(text[at]) != std::string_view::npos;
  };
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    const bool at_separator = separates(at);
    while (end < text.size() && separates(end) == at_separator) end += CharacterBytes(text, end);
    const std::string_view part = std::string_view(text).substr(at, end - at);
    const size_t first = CharacterBytes(text, at);
    result += at_separator ? std::string(part)
                           : ToUpper(part.substr(0, first)) + ToLower(part.substr(first));
    at = end;
  }
  return runtime.MakeString(std::move(result));
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
  return AsText(runtime, subject);
}

Value Safe(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "safe", arguments, {}, 0)) return Value();
  return runtime.MakeMarkup(ToText(runtime, subject));
}

Value EscapeText(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "escape", arguments, {}, 0)) return Value();
  return runtime.MakeMarkup(Escape(runtime, subject));
}

Value ForceEscape(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "forceescape", arguments, {}, 0)) return Value();
  return runtime.MakeMarkup(Escape(runtime, Value::String(ToText(runtime, subject))));
}

Value FormatText(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    return runtime.Fail("'format' takes values by position or by name, not both");
  }
  std::vector<std::pair<Value, Value>> named;
  for (const auto& [name, value] : arguments.named) named.emplace_back(Value::String(name), value);
  const Value values = arguments.named.empty()
                           ? runtime.MakeList(arguments.positional, List::Kind::kTuple)
                           : runtime.MakeDict(std::move(named));
  const Value text = AsText(runtime, subject);
  return runtime.ok() ? FormatPercent(runtime, text, values) : Value();
}

Value Center(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "center", arguments, {"width"}, 0)) return Value();
  const Value* width = FindArgument(arguments, 0, "width");
  Arguments passed;
  passed.positional.push_back(width == nullptr ? Value::Integer(80) : *width);
  return CallOnText(runtime, subject, "center", passed);
}

Value Indent(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "indent", arguments, {"width", "first", "blank"}, 0)) {
    return Value();
  }
  if (subject.is_undefined()) return runtime.FailUndefined(subject);
  if (!subject.is_string()) return runtime.Fail(Message("'indent' of a ", subject.KindName()));
  const Value* width = FindArgument(arguments, 0, "width");
  const bool indents_first = FlagArgument(FindArgument(arguments, 1, "first"), false);
  const bool indents_blank = FlagArgument(FindArgument(arguments, 2, "blank"), false);
  std::string indention;
  if (width != nullptr && width->is_string()) {
    indention = width->string();
  } else {
    const int64_t columns = IntegerArgument(runtime, width, 4);
    if (columns > 10'000) return runtime.Fail("'indent' by more than 10000 columns");
    indention = std::string(std::max<int64_t>(columns, 0), ' ');
  }
  // The newline at the end makes a last empty line, as in the reference.
  const std::string text = subject.string() + "\n";
  if (!runtime.SpendSteps(text.size() / 32)) return Value();
  std::string result = indents_first ? indention : "";
  bool first = true;
  for (std::string_view line : SplitLines(text, /*keep_ends=*/false)) {
    if (!first) result += "\n";
    if (!first && (indents_blank || !line.empty())) result += indention;
    first = false;
    result += line;
    if (result.size() > Runtime::kMaximumTextBytes) break;
  }
  return runtime.MakeStringLike(subject, std::move(result));
}

Value Truncate(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "truncate", arguments, {"length", "killwords", "end", "leeway"},
                      0)) {
    return Value();
  }
  const int64_t length = IntegerArgument(runtime, FindArgument(arguments, 0, "length"), 255);
  const bool cuts_words = FlagArgument(FindArgument(arguments, 1, "killwords"), false);
  const Value* given_end = FindArgument(arguments, 2, "end");
  const std::string end = given_end == nullptr ? "..." : ToText(runtime, *given_end);
  const Value* given_leeway = FindArgument(arguments, 3, "leeway");
  const bool has_leeway = given_leeway != nullptr && !given_leeway->is_none();
  const int64_t leeway = has_leeway ? IntegerArgument(runtime, given_leeway, 5) : 5;
  const int64_t end_length = CountCharacters(end);
  if (length < end_length) return runtime.Fail("'truncate' to less than its end");
  if (leeway < 0) return runtime.Fail("'truncate' with a negative leeway");
  const std::optional<int64_t> size = Length(runtime, subject);
  if (size.has_value() && *size <= length + leeway) return subject;
  if (!subject.is_string()) return runtime.Fail(Message("'truncate' of a ", subject.KindName()));
  const std::string& text = subject.string();
  size_t cut = 0;
  for (int64_t i = 0; i < length - end_length; ++i) cut += CharacterBytes(text, cut);
  if (!cuts_words) cut = std::min(cut, text.substr(0, cut).rfind(' '));
  return runtime.MakeStringLike(subject, text.substr(0, cut) + end);
}

Value CountWords(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "wordcount", arguments, {}, 0)) return Value();
  const std::string text = ToText(runtime, subject);
  int64_t words = 0;
  bool within = false;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    const uint32_t c = CodePointAt(text, at);
    const bool is_part = c == '_' || IsAlphabetic(c) || IsNumeric(c);
    words += is_part && !within;
    within = is_part;
  }
  return Value::Integer(words);
}

// Python's urllib.parse.quote; with `plus` the form of a query.
std::string Quote(const std::string& text, bool plus) {
  std::string quoted;
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_isalnum(byte) || std::string_view("_.-~").find(c) != std::string_view::npos ||
        (c == '/' && !plus)) {
      quoted.push_back(c);
    } else if (c == ' ' && plus) {
      quoted.push_back('+');
    } else {
      static constexpr char kDigits[] = "0123456789ABCDEF";
      quoted.append({'%', kDigits[byte >> 4], kDigits[byte & 15]});
    }
  }
  return quoted;
}

Value UrlEncode(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "urlencode", arguments, {}, 0)) return Value();
  if (subject.is_string() || (subject.dict() == nullptr && subject.list() == nullptr)) {
    return runtime.MakeString(Quote(ToText(runtime, subject), false));
  }
  Values pairs;
  if (const Dict* dict = subject.dict()) {
    for (const auto& [key, value] : dict->entries) {
      pairs.push_back(runtime.MakeList({key, value}, List::Kind::kTuple));
    }
  } else {
    pairs = Elements(runtime, subject);
  }
  std::string text;
  for (const Value& pair : pairs) {
    const Values parts = Elements(runtime, pair);
    if (runtime.ok() && parts.size() != 2) runtime.Fail("'urlencode' needs pairs");
    if (!runtime.ok() || text.size() > Runtime::kMaximumTextBytes) break;
    if (!text.empty()) text += "&";
    text += Quote(ToText(runtime, parts[0]), true) + "=" + Quote(ToText(runtime, parts[1]), true);
  }
  return runtime.MakeString(std::move(text));
}

Value XmlAttributes(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "xmlattr", arguments, {"autospace"}, 0)) return Value();
  if (subject.dict() == nullptr) return runtime.Fail("'xmlattr' needs a dict");
  std::string text;
  for (const auto& [key, value] : subject.dict()->entries) {
    if (value.is_none() || value.is_undefined()) continue;
    const std::string name = ToText(runtime, key);
    if (name.find_first_of(" \t\n\r\f/>=") != std::string::npos) {
      return runtime.Fail(Message("'", name, "' is no name of an attribute"));
    }
    if (!text.empty()) text += " ";
    text += Escape(runtime, key) + "=\"" + Escape(runtime, value) + "\"";
    if (!runtime.ok() || text.size() > Runtime::kMaximumTextBytes) break;
  }
  const bool space = FlagArgument(FindArgument(arguments, 0, "autospace"), true);
  return runtime.MakeString((space && !text.empty() ? " " : "") + text);
}

constexpr std::array kFilters = {
    FilterEntry{"capitalize", ChangeCase<kCapitalize>},
    FilterEntry{"center", Center},
    FilterEntry{"e", EscapeText},
    FilterEntry{"escape", EscapeText},
    FilterEntry{"forceescape", ForceEscape},
    FilterEntry{"format", FormatText},
    FilterEntry{"indent", Indent},
    FilterEntry{"lower", ChangeCase<kLower>},
    FilterEntry{"replace", ReplaceInText},
    FilterEntry{"safe", Safe},
    FilterEntry{"string", String},
    FilterEntry{"title", Title},
    FilterEntry{"trim", Trim},
    FilterEntry{"truncate", Truncate},
    FilterEntry{"upper", ChangeCase<kUpper>},
    FilterEntry{"urlencode", UrlEncode},
    FilterEntry{"wordcount", CountWords},
    FilterEntry{"xmlattr", XmlAttributes},
};

}  // namespace

Filter FindTextFilter(std::string_view name) { return FindIn(kFilters, name); }

}  // namespace mambad::text::jinja
