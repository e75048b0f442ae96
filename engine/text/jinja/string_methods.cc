#include "engine/text/jinja/string_methods.h"

#include <algorithm>
#include <array>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/string_format.h"
#include "engine/text/jinja/unicode.h"
#include "engine/text/jinja/unicode_case.h"

namespace mambad::text::jinja {
namespace {

// The text itself is `self.string()`; of a markup the pieces are markups, too.
using StringMethod = Value (*)(Runtime&, const Value& self, const std::string& name,
                               const Arguments& arguments);

Value MakeStrings(Runtime& runtime, const Value& self, const std::vector<std::string_view>& pieces,
                  List::Kind kind = List::Kind::kList) {
  if (!runtime.SpendSteps(pieces.size())) return Value();
  Values items;
  for (std::string_view piece : pieces) {
    items.push_back(runtime.MakeStringLike(self, std::string(piece)));
  }
  return runtime.MakeList(std::move(items), kind);
}

// A string argument that must be given. What goes into a markup is escaped when `escapes`.
std::optional<std::string> NeededString(Runtime& runtime, const Value& self,
                                        const Arguments& arguments, size_t index,
                                        const std::string& name, bool escapes = false) {
  const Value& argument = arguments.positional[index];
  if (!argument.is_string()) {
    if (argument.is_undefined()) runtime.FailUndefined(argument);
    runtime.Fail(Message("'", name, "' needs a string, not ", argument.KindName()));
    return std::nullopt;
  }
  if (escapes && self.is_markup()) return Escape(runtime, argument);
  return argument.string();
}

// --- Cutting and splitting ---

Value StripText(Runtime& runtime, const Value& self, const std::string& name,
                const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {""}, 0)) return Value();
  const auto characters = StringArgument(runtime, FindArgument(arguments, 0, ""));
  if (!runtime.SpendBytes(characters.has_value() ? characters->size() : 0)) return Value();
  return runtime.MakeStringLike(
      self, std::string(Strip(self.string(), characters, name != "rstrip", name != "lstrip")));
}

Value RemoveAffix(Runtime& runtime, const Value& self, const std::string& name,
                  const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {""}, 1)) return Value();
  const auto affix = NeededString(runtime, self, arguments, 0, name);
  if (!affix.has_value()) return Value();
  std::string_view text = self.string();
  if (name == "removeprefix" && text.starts_with(*affix)) text.remove_prefix(affix->size());
  if (name == "removesuffix" && text.ends_with(*affix)) text.remove_suffix(affix->size());
  return runtime.MakeStringLike(self, std::string(text));
}

Value SplitText(Runtime& runtime, const Value& self, const std::string& name,
                const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {"sep", "maxsplit"}, 0)) return Value();
  const std::string& text = self.string();
  const auto separator = StringArgument(runtime, FindArgument(arguments, 0, "sep"));
  const int64_t limit = IntegerArgument(runtime, FindArgument(arguments, 1, "maxsplit"), -1);
  if (separator.has_value() && separator->empty()) return runtime.Fail("split at an empty text");
  if (!runtime.SpendBytes(2 * text.size()) ||
      (separator.has_value() && !runtime.SpendSteps(CountOccurrences(text, *separator)))) {
    return Value();
  }
  // At most one piece for two characters; charged before the pieces are made.
  if (!separator.has_value() && limit != 0 && !runtime.SpendSteps(text.size() / 32)) return Value();
  return MakeStrings(
      runtime, self,
      name == "split" ? Split(text, separator, limit) : SplitFromRight(text, separator, limit));
}

Value SplitTextLines(Runtime& runtime, const Value& self, const std::string& name,
                     const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {"keepends"}, 0)) return Value();
  const std::string& text = self.string();
  if (!runtime.SpendBytes(text.size()) || !runtime.SpendSteps(text.size() / 32)) return Value();
  const bool keep_ends = FlagArgument(FindArgument(arguments, 0, "keepends"), false);
  return MakeStrings(runtime, self, SplitLines(text, keep_ends));
}

Value Partition(Runtime& runtime, const Value& self, const std::string& name,
                const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {""}, 1)) return Value();
  const auto separator = NeededString(runtime, self, arguments, 0, name);
  if (!separator.has_value() || !runtime.SpendBytes(2 * self.string().size())) return Value();
  if (separator->empty()) return runtime.Fail(Message("'", name, "' at an empty text"));
  const std::string_view text = self.string();
  const bool from_left = name == "partition";
  const size_t at = from_left ? Find(text, *separator, 0) : FindLast(text, *separator, text.size());
  std::vector<std::string_view> parts = {text.substr(0, at), *separator, ""};
  if (at != std::string_view::npos) {
    parts[2] = text.substr(at + separator->size());
  } else {
    parts = from_left ? std::vector<std::string_view>{text, "", ""}
                      : std::vector<std::string_view>{"", "", text};
  }
  return MakeStrings(runtime, self, parts, List::Kind::kTuple);
}

// --- Searching ---

// Byte offsets of the part between the arguments number 1 and 2, which count characters as a slice
// does; false when there is no such part.
bool FindRange(Runtime& runtime, std::string_view text, const Arguments& arguments, size_t* begin,
               size_t* end) {
  *begin = 0;
  *end = text.size();
  if (arguments.positional.size() < 2 || !runtime.SpendBytes(text.size())) return runtime.ok();
  const int64_t size = CountCharacters(text);
  int64_t bounds[2] = {0, size};
  for (size_t i = 1; i < std::min<size_t>(3, arguments.positional.size()); ++i) {
    if (arguments.positional[i].is_none()) continue;
    const int64_t bound = IntegerArgument(runtime, &arguments.positional[i], 0);
    bounds[i - 1] = bound < 0 ? std::max<int64_t>(bound < -size ? 0 : bound + size, 0) : bound;
  }
  bounds[1] = std::min(bounds[1], size);
  if (bounds[0] > bounds[1] || !runtime.ok()) return false;
  size_t at = 0;
  for (int64_t i = 0; i < bounds[1]; ++i) {
    if (i == bounds[0]) *begin = at;
    at += CharacterBytes(text, at);
  }
  if (bounds[0] == bounds[1]) *begin = at;
  *end = at;
  return true;
}

Value HasAffix(Runtime& runtime, const Value& self, const std::string& name,
               const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {"", "", ""}, 1)) return Value();
  const Value& affix = arguments.positional[0];
  const bool is_tuple = affix.list() != nullptr && affix.list()->is_tuple();
  size_t begin = 0;
  size_t end = 0;
  const bool has_range = FindRange(runtime, self.string(), arguments, &begin, &end);
  const std::string_view whole =
      std::string_view(self.string()).substr(begin, has_range ? end - begin : 0);
  for (const Value& candidate : is_tuple ? affix.list()->items : Values{affix}) {
    if (!candidate.is_string()) {
      if (candidate.is_undefined()) runtime.FailUndefined(candidate);
      return runtime.Fail(Message("'", name, "' needs a string, not ", candidate.KindName()));
    }
    const std::string_view part = candidate.string();
    if (!runtime.SpendSteps(1) || !runtime.SpendBytes(part.size())) return Value();
    if (!has_range) continue;
    if (name == "startswith" ? whole.starts_with(part) : whole.ends_with(part)) {
      return Value::Boolean(true);
    }
  }
  return runtime.ok() ? Value::Boolean(false) : Value();
}

Value CountOrFind(Runtime& runtime, const Value& self, const std::string& name,
                  const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {"", "", ""}, 1)) return Value();
  const auto needle = NeededString(runtime, self, arguments, 0, name);
  const std::string_view text = self.string();
  if (!needle.has_value() || !runtime.SpendBytes(2 * text.size())) return Value();
  size_t begin = 0;
  size_t end = 0;
  const bool has_range = FindRange(runtime, text, arguments, &begin, &end);
  if (!runtime.ok()) return Value();
  if (name == "count") {
    return Value::Integer(has_range ? CountOccurrences(text.substr(begin, end - begin), *needle)
                                    : 0);
  }
  const std::string_view part = text.substr(begin, has_range ? end - begin : 0);
  size_t at = std::string_view::npos;
  if (has_range) {
    at = name.starts_with('r') ? FindLast(part, *needle, part.size()) : Find(part, *needle, 0);
  }
  if (at != std::string_view::npos) {
    return Value::Integer(CountCharacters(text.substr(0, begin + at)));
  }
  if (name.ends_with("index")) return runtime.Fail(Message("'", name, "' of a text not found"));
  return Value::Integer(-1);
}

// --- Replacing, joining, filling ---

Value ReplaceText(Runtime& runtime, const Value& self, const std::string& name,
                  const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {"", "", "count"}, 2)) return Value();
  const auto from = NeededString(runtime, self, arguments, 0, name);
  const auto to = NeededString(runtime, self, arguments, 1, name, /*escapes=*/true);
  const int64_t limit = IntegerArgument(runtime, FindArgument(arguments, 2, "count"), -1);
  const std::string& text = self.string();
  if (!from.has_value() || !to.has_value() || !runtime.SpendBytes(2 * text.size())) return Value();
  uint64_t times = CountOccurrences(text, *from);
  if (limit >= 0) times = std::min<uint64_t>(times, limit);
  if (text.size() + times * to->size() > 2 * Runtime::kMaximumTextBytes) {
    return runtime.Fail("'replace' makes a text that is too long");
  }
  return runtime.MakeStringLike(self, Replace(text, *from, *to, limit));
}

Value JoinTexts(Runtime& runtime, const Value& self, const std::string& name,
                const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {""}, 1)) return Value();
  std::string result;
  bool first = true;
  for (const Value& piece : Elements(runtime, arguments.positional[0])) {
    if (!piece.is_string() && !self.is_markup()) {
      return runtime.Fail(Message("'join' needs strings, not ", piece.KindName()));
    }
    if (!first) result += self.string();
    first = false;
    result += self.is_markup() ? Escape(runtime, piece) : piece.string();
    if (result.size() > Runtime::kMaximumTextBytes) break;
  }
  return runtime.MakeStringLike(self, std::move(result));
}

Value Justify(Runtime& runtime, const Value& self, const std::string& name,
              const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {"", ""}, 1)) return Value();
  const int64_t width = IntegerArgument(runtime, &arguments.positional[0], 0);
  std::string fill = name == "zfill" ? "0" : " ";
  if (arguments.positional.size() > 1) {
    const auto given = NeededString(runtime, self, arguments, 1, name);
    if (!given.has_value()) return Value();
    if (CountCharacters(*given) != 1 || name == "zfill") {
      return runtime.Fail(Message("'", name, "' needs one character to fill with"));
    }
    fill = *given;
  }
  const std::string& text = self.string();
  const int64_t missing = width - static_cast<int64_t>(CountCharacters(text));
  if (missing <= 0 || !runtime.ok()) return runtime.MakeStringLike(self, text);
  if (missing > static_cast<int64_t>(Runtime::kMaximumTextBytes / fill.size())) {
    return runtime.FailTooLong();
  }
  auto repeat = [&fill](int64_t times) {
    std::string padding;
    for (int64_t i = 0; i < times; ++i) padding += fill;
    return padding;
  };
  if (name == "zfill") {
    const bool has_sign = text.starts_with('-') || text.starts_with('+');
    return runtime.MakeStringLike(
        self, text.substr(0, has_sign) + repeat(missing) + text.substr(has_sign));
  }
  // Python's center puts the odd character to the left when the width is odd, too.
  int64_t left = name == "rjust" ? missing : 0;
  if (name == "center") left = missing / 2 + (missing & width & 1);
  return runtime.MakeStringLike(self, repeat(left) + text + repeat(missing - left));
}

Value ExpandTabs(Runtime& runtime, const Value& self, const std::string& name,
                 const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {"tabsize"}, 0)) return Value();
  const int64_t size = IntegerArgument(runtime, FindArgument(arguments, 0, "tabsize"), 8);
  if (size > 1000) return runtime.Fail("'expandtabs' to more than 1000 columns");
  if (!runtime.SpendBytes(self.string().size())) return Value();
  std::string result;
  int64_t column = 0;
  for (std::string_view character : SplitCharacters(self.string())) {
    if (character == "\t") {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      result.append(spaces, ' ');
      column += spaces;
    } else {
      result.append(character);
      column = character == "\n" || character == "\r" ? 0 : column + 1;
    }
    if (result.size() > Runtime::kMaximumTextBytes) return runtime.FailTooLong();
  }
  return runtime.MakeStringLike(self, std::move(result));
}

// --- Letters ---

Value ChangeCase(Runtime& runtime, const Value& self, const std::string& name,
                 const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {}, 0)) return Value();
  const std::string& text = self.string();
  if (!runtime.SpendBytes(4 * text.size())) return Value();
  return runtime.MakeStringLike(self, name == "upper"        ? ToUpper(text)
                                      : name == "lower"      ? ToLower(text)
                                      : name == "title"      ? ToTitle(text)
                                      : name == "capitalize" ? Capitalize(text)
                                      : name == "swapcase"   ? SwapCase(text)
                                                             : FoldCase(text));
}

bool IsAlphanumeric(uint32_t c) {
  return IsAlphabetic(c) || IsDecimal(c) || IsDigit(c) || IsNumeric(c);
}
bool IsPartOfName(uint32_t c) { return c == '_' || IsAlphabetic(c) || IsDecimal(c); }

// Capitals only after what has no case, small letters only after letters.
bool IsTitled(const std::vector<uint32_t>& characters) {
  bool after_cased = false;
  bool any = false;
  for (uint32_t c : characters) {
    const bool capital = IsUpper(c) || IsTitle(c);
    if (capital ? after_cased : IsLower(c) && !after_cased) return false;
    after_cased = IsCased(c);
    any |= after_cased;
  }
  return any;
}

Value JudgeText(Runtime& runtime, const Value& self, const std::string& name,
                const Arguments& arguments) {
  if (!CheckArguments(runtime, name, arguments, {}, 0)) return Value();
  const std::string& text = self.string();
  if (!runtime.SpendBytes(4 * text.size())) return Value();
  if (name == "isascii") return Value::Boolean(IsAscii(text));
  std::vector<uint32_t> characters;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    characters.push_back(CodePointAt(text, at));
  }
  if (name == "istitle") return Value::Boolean(IsTitled(characters));
  const bool any_cased = std::any_of(characters.begin(), characters.end(), IsCased);
  if (name == "isupper" || name == "islower") {
    const bool none =
        std::none_of(characters.begin(), characters.end(), name == "isupper" ? IsLower : IsUpper) &&
        std::none_of(characters.begin(), characters.end(), IsTitle);
    return Value::Boolean(any_cased && none);
  }
  if (name == "isidentifier" && !characters.empty() && IsDecimal(characters[0])) {
    return Value::Boolean(false);
  }
  bool (*const judge)(uint32_t) = name == "isalpha"        ? IsAlphabetic
                                  : name == "isalnum"      ? IsAlphanumeric
                                  : name == "isdecimal"    ? IsDecimal
                                  : name == "isdigit"      ? IsDigit
                                  : name == "isnumeric"    ? IsNumeric
                                  : name == "isspace"      ? IsSpace
                                  : name == "isidentifier" ? IsPartOfName
                                                           : IsPrintable;
  const bool all = std::all_of(characters.begin(), characters.end(), judge);
  return Value::Boolean(all && (!characters.empty() || name == "isprintable"));
}

Value Format(Runtime& runtime, const Value& self, const std::string& name,
             const Arguments& arguments) {
  if (name == "format") return FormatBraces(runtime, self, arguments);
  if (!CheckArguments(runtime, name, arguments, {""}, 1)) return Value();
  const Dict* dict = arguments.positional[0].dict();
  if (dict == nullptr) return runtime.Fail("'format_map' needs a dict");
  Arguments named;
  for (const auto& [key, value] : dict->entries) {
    if (!runtime.SpendSteps(1)) return Value();
    if (key.is_string()) named.named.emplace_back(key.string(), value);
  }
  return FormatBraces(runtime, self, named);
}

struct Entry {
  std::string_view name;
  StringMethod method;
};

constexpr std::array kMethods = {Entry{"strip", StripText},
                                 Entry{"lstrip", StripText},
                                 Entry{"rstrip", StripText},
                                 Entry{"split", SplitText},
                                 Entry{"rsplit", SplitText},
                                 Entry{"splitlines", SplitTextLines},
                                 Entry{"startswith", HasAffix},
                                 Entry{"endswith", HasAffix},
                                 Entry{"replace", ReplaceText},
                                 Entry{"join", JoinTexts},
                                 Entry{"count", CountOrFind},
                                 Entry{"find", CountOrFind},
                                 Entry{"rfind", CountOrFind},
                                 Entry{"index", CountOrFind},
                                 Entry{"rindex", CountOrFind},
                                 Entry{"upper", ChangeCase},
                                 Entry{"lower", ChangeCase},
                                 Entry{"title", ChangeCase},
                                 Entry{"capitalize", ChangeCase},
                                 Entry{"swapcase", ChangeCase},
                                 Entry{"casefold", ChangeCase},
                                 Entry{"partition", Partition},
                                 Entry{"rpartition", Partition},
                                 Entry{"removeprefix", RemoveAffix},
                                 Entry{"removesuffix", RemoveAffix},
                                 Entry{"center", Justify},
                                 Entry{"ljust", Justify},
                                 Entry{"rjust", Justify},
                                 Entry{"zfill", Justify},
                                 Entry{"expandtabs", ExpandTabs},
                                 Entry{"format", Format},
                                 Entry{"format_map", Format},
                                 Entry{"isalnum", JudgeText},
                                 Entry{"isalpha", JudgeText},
                                 Entry{"isascii", JudgeText},
                                 Entry{"isdecimal", JudgeText},
                                 Entry{"isdigit", JudgeText},
                                 Entry{"isidentifier", JudgeText},
                                 Entry{"islower", JudgeText},
                                 Entry{"isnumeric", JudgeText},
                                 Entry{"isprintable", JudgeText},
                                 Entry{"isspace", JudgeText},
                                 Entry{"istitle", JudgeText},
                                 Entry{"isupper", JudgeText}};

}  // namespace

MethodSupport FindStringMethod(std::string_view name) {
  for (const Entry& entry : kMethods) {
    if (entry.name == name) return MethodSupport::kSupported;
  }
  if (name == "encode" || name == "maketrans" || name == "translate") {
    return MethodSupport::kUnsupported;
  }
  return MethodSupport::kNone;
}

Value CallStringMethod(Runtime& runtime, const Value& text, const std::string& name,
                       const Arguments& arguments) {
  for (const Entry& entry : kMethods) {
    if (entry.name == name) return entry.method(runtime, text, name, arguments);
  }
  return runtime.FailUnimplemented(Message("method '", name, "'"));
}

}  // namespace mambad::text::jinja
