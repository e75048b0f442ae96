#include "engine/text/jinja/string_format.h"

#include <cmath>
#include <limits>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/format_specification.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/unicode.h"

namespace mambad::text::jinja {
namespace {

constexpr std::string_view kFloatTypes = "eEfFgG%";

// repr(), with escapes for what is not ASCII.
std::string AsciiRepresentation(Runtime& runtime, const Value& value) {
  const std::string text = ToRepresentation(runtime, value);
  std::string ascii;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    const uint32_t code_point = CodePointAt(text, at);
    if (code_point < 0x80) {
      ascii.push_back(text[at]);
    } else {
      AppendEscape(code_point, &ascii);
    }
  }
  return ascii;
}

bool IsAlign(char c) { return c == '<' || c == '>' || c == '^' || c == '='; }

// --- format(value, specification) ---

FormatSpecification ParseSpecification(Runtime& runtime, std::string_view text) {
  FormatSpecification how;
  size_t at = 0;
  auto next = [&]() { return at < text.size() ? text[at] : '\0'; };
  const size_t first = text.empty() ? 0 : CharacterBytes(text, 0);
  if (first > 0 && first < text.size() && IsAlign(text[first])) {
    how.fill = std::string(text.substr(0, first));
    how.align = text[first];
    at = first + 1;
  } else if (IsAlign(next())) {
    how.align = text[at++];
  }
  if (next() == '+' || next() == '-' || next() == ' ') how.sign = text[at++];
  if (next() == '#') {
    how.alternate = true;
    ++at;
  }
  if (next() == '0') {
    if (how.align == '\0') {
      how.fill = "0";
      how.zeros = true;
    }
    ++at;
  }
  how.width = std::max<int64_t>(0, ReadFormatNumber(runtime, text, &at));
  if (next() == ',' || next() == '_') how.grouping = text[at++];
  if (next() == '.') {
    ++at;
    how.precision = ReadFormatNumber(runtime, text, &at);
    if (how.precision < 0) runtime.Fail("a format without digits after '.'");
  }
  if (at < text.size()) how.type = text[at++];
  if (at < text.size()) runtime.Fail(Message("'", text, "' is no format"));
  return how;
}

// --- "%" ---

// Hands out the values of a "%" one after another, or by name.
class PercentArguments {
 public:
  PercentArguments(Runtime& runtime, const Value& given) : runtime_(runtime), given_(given) {
    const List* list = given.list();
    if (list != nullptr && list->is_tuple()) tuple_ = list;
  }

  Value Next() {
    const size_t count = tuple_ != nullptr ? tuple_->items.size() : 1;
    if (next_ >= count) return runtime_.Fail("not enough values for the format");
    return tuple_ != nullptr ? tuple_->items[next_++] : (++next_, given_);
  }

  Value Named(const std::string& name) {
    by_name_ = true;
    const Dict* dict = given_.dict();
    if (dict == nullptr) return runtime_.Fail("a format with names needs a dict");
    const Value* value = FindKey(runtime_, *dict, Value::String(name));
    return value != nullptr ? *value : runtime_.Fail(Message("'", name, "' is not in the dict"));
  }

  void CheckAllUsed() {
    const bool is_mapping =
        tuple_ == nullptr &&
        (given_.dict() != nullptr || given_.list() != nullptr || given_.is_undefined());
    if (tuple_ != nullptr ? next_ < tuple_->items.size() : next_ == 0 && !is_mapping) {
      if (!by_name_) runtime_.Fail("more values than the format takes");
    }
  }

 private:
  Runtime& runtime_;
  const Value& given_;
  const List* tuple_ = nullptr;
  size_t next_ = 0;
  bool by_name_ = false;
};

class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, const Value& format, const Value& given)
      : runtime_(runtime), format_(format), text_(format.string()), arguments_(runtime, given) {}

  Value Run() {
    while (at_ < text_.size() && runtime_.ok()) {
      const size_t sign = text_.find('%', at_);
      out_.append(text_.substr(at_, sign == std::string_view::npos ? sign : sign - at_));
      if (sign == std::string_view::npos) break;
      at_ = sign + 1;
      FormatOne();
      if (out_.size() > Runtime::kMaximumTextBytes) return runtime_.FailTooLong();
    }
    if (runtime_.ok()) arguments_.CheckAllUsed();
    return runtime_.ok() ? runtime_.MakeStringLike(format_, std::move(out_)) : Value();
  }

 private:
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  int64_t ReadNumber() {
    if (Peek() != '*') return ReadFormatNumber(runtime_, text_, &at_);
    ++at_;
    const Value number = arguments_.Next();
    if (!number.is_integral() || std::abs(number.number()) > 999'999) {
      runtime_.Fail("'*' in a format needs a small integer");
      return 0;
    }
    return number.integral();
  }

  // "(name)", in which brackets may nest.
  std::string ReadName() {
    const size_t start = ++at_;
    int depth = 1;
    for (; at_ < text_.size(); ++at_) {
      depth += text_[at_] == '(' ? 1 : text_[at_] == ')' ? -1 : 0;
      if (depth == 0) return std::string(text_.substr(start, at_++ - start));
    }
    runtime_.Fail("a format with an open bracket");
    return "";
  }

  void FormatOne() {
    std::optional<Value> named;
    if (Peek() == '(') named = arguments_.Named(ReadName());
    FormatSpecification how;
    bool zeros = false;
    bool left = false;
    for (; at_ < text_.size() && std::string_view("#0- +").find(Peek()) != std::string_view::npos;
         ++at_) {
      how.alternate |= Peek() == '#';
      zeros |= Peek() == '0';
      left |= Peek() == '-';
      if (Peek() == '+' || (Peek() == ' ' && how.sign != '+')) how.sign = Peek();
    }
    how.width = ReadNumber();
    if (how.width < -1) {
      left = true;
      how.width = -how.width;
    }
    if (Peek() == '.') {
      ++at_;
      how.precision = std::max<int64_t>(0, ReadNumber());
    }
    if (Peek() == 'h' || Peek() == 'l' || Peek() == 'L') ++at_;
    if (at_ >= text_.size()) {
      runtime_.Fail("a format that ends in '%'");
      return;
    }
    const char type = text_[at_++];
    if (type == '%') {
      out_.push_back('%');
      return;
    }
    const Value value = named.has_value() ? *named : arguments_.Next();
    if (!runtime_.ok()) return;
    how.align = left ? '<' : '>';
    const bool is_number =
        std::string_view("sracd").find(type) == std::string_view::npos || type == 'd';
    if (zeros && !left && is_number) {
      how.align = '=';
      how.fill = "0";
    }
    out_.append(Format(value, type, how));
  }

  std::string Format(const Value& value, char type, FormatSpecification how) {
    how.type = type;
    switch (type) {
      case 's':
        return FormatText(
            runtime_, format_.is_markup() ? Escape(runtime_, value) : ToText(runtime_, value), how);
      case 'r':
        return FormatText(runtime_, ToRepresentation(runtime_, value), how);
      case 'a':
        return FormatText(runtime_, AsciiRepresentation(runtime_, value), how);
      case 'c':
        if (value.is_string() && CountCharacters(value.string()) == 1) {
          return FormatText(runtime_, value.string(), how);
        }
        if (!value.is_integral()) break;
        how.precision = -1;
        return FormatInteger(runtime_, value.integral(), how);
      case 'd':
      case 'i':
      case 'u':
        how.type = 'd';
        [[fallthrough]];
      case 'o':
      case 'x':
      case 'X':
        return FormatWhole(value, how);
      default:
        if (kFloatTypes.find(type) == std::string_view::npos) {
          runtime_.Fail("an unknown letter in a format");
          return "";
        }
        if (!value.is_number()) break;
        return FormatFloat(runtime_, value.number(), how);
    }
    runtime_.Fail(Message("a format for numbers with a ", value.KindName()));
    return "";
  }

  std::string FormatWhole(const Value& value, const FormatSpecification& how) {
    if (how.precision > 1000) {
      runtime_.Fail("a precision of more than 1000 digits");
      return "";
    }
    if (value.is_integral()) return FormatInteger(runtime_, value.integral(), how);
    const bool fits = value.is_float() && how.type == 'd' && std::fabs(value.number()) < 9e18;
    if (fits) return FormatInteger(runtime_, static_cast<int64_t>(value.number()), how);
    runtime_.Fail(Message("a format for integers with a ", value.KindName()));
    return "";
  }

  Runtime& runtime_;
  const Value& format_;
  const std::string_view text_;
  PercentArguments arguments_;
  std::string out_;
  size_t at_ = 0;
};

// --- str.format ---

class BraceFormatter {
 public:
  BraceFormatter(Runtime& runtime, const Value& format, const Arguments& arguments)
      : runtime_(runtime), format_(format), arguments_(arguments) {}

  // Fields may stand in a field's specification, but no deeper.
  std::string Run(std::string_view text, int depth) {
    std::string out;
    if (depth > 1) {
      runtime_.Fail("a format nested too deeply");
      return out;
    }
    size_t at = 0;
    while (at < text.size() && runtime_.ok()) {
      const char c = text[at];
      if ((c == '{' || c == '}') && at + 1 < text.size() && text[at + 1] == c) {
        out.push_back(c);
        at += 2;
      } else if (c == '{') {
        const size_t end = FieldEnd(text, at + 1);
        if (end == std::string_view::npos) {
          runtime_.Fail("a format with an open '{'");
          break;
        }
        out.append(Field(text.substr(at + 1, end - at - 1), depth));
        at = end + 1;
      } else if (c == '}') {
        runtime_.Fail("a format with a single '}'");
      } else {
        out.push_back(c);
        ++at;
      }
      if (out.size() > Runtime::kMaximumTextBytes) runtime_.FailTooLong();
    }
    return out;
  }

 private:
  static size_t FieldEnd(std::string_view text, size_t at) {
    int depth = 1;
    for (bool in_brackets = false; at < text.size(); ++at) {
      if (text[at] == '[') in_brackets = true;
      if (text[at] == ']') in_brackets = false;
      if (in_brackets) continue;
      depth += text[at] == '{' ? 1 : text[at] == '}' ? -1 : 0;
      if (depth == 0) return at;
    }
    return std::string_view::npos;
  }

  std::string Field(std::string_view field, int depth) {
    size_t name_end = 0;
    for (bool in_brackets = false; name_end < field.size(); ++name_end) {
      if (field[name_end] == '[') in_brackets = true;
      if (field[name_end] == ']') in_brackets = false;
      if (!in_brackets && (field[name_end] == '!' || field[name_end] == ':')) break;
    }
    Value value = FindField(field.substr(0, name_end));
    std::string_view rest = field.substr(name_end);
    if (!runtime_.ok()) return "";
    if (rest.starts_with('!')) {
      const char conversion = rest.size() > 1 ? rest[1] : '\0';
      if (rest.size() < 2 || std::string_view("sra").find(conversion) == std::string_view::npos ||
          (rest.size() > 2 && rest[2] != ':')) {
        runtime_.Fail("a format with an unknown conversion after '!'");
        return "";
      }
      value = Value::String(conversion == 's'   ? ToText(runtime_, value)
                            : conversion == 'r' ? ToRepresentation(runtime_, value)
                                                : AsciiRepresentation(runtime_, value));
      rest.remove_prefix(2);
    }
    if (rest.starts_with(':')) rest.remove_prefix(1);
    const std::string specification = rest.empty() ? std::string() : Run(rest, depth + 1);
    if (!runtime_.ok()) return "";
    const std::string text = FormatValue(runtime_, value, specification);
    return format_.is_markup() && !value.is_markup() ? Escape(runtime_, Value::String(text)) : text;
  }

  // name, name.attribute, name[item]; an empty name takes the next value.
  Value FindField(std::string_view name) {
    const size_t first_end = std::min(name.find_first_of(".["), name.size());
    Value value = FindArgumentOf(std::string(name.substr(0, first_end)));
    size_t at = first_end;
    while (at < name.size() && runtime_.ok()) {
      if (!runtime_.SpendSteps(1)) break;
      if (name[at] == '.') {
        const size_t end = std::min(name.find_first_of(".[", at + 1), name.size());
        const std::string attribute(name.substr(at + 1, end - at - 1));
        value = GetAttribute(runtime_, value, attribute);
        at = end;
      } else if (const size_t end = name.find(']', at); name[at] == '[' && end != name.npos) {
        const std::string key(name.substr(at + 1, end - at - 1));
        const bool is_index = !key.empty() && key.size() < 18 &&
                              key.find_first_not_of("0123456789") == std::string::npos;
        value = GetItem(runtime_, value,
                        is_index ? Value::Integer(std::stoll(key)) : Value::String(key));
        at = end + 1;
      } else {
        return runtime_.Fail(Message("'", name, "' is no field of a format"));
      }
    }
    return value;
  }

  Value FindArgumentOf(std::string name) {
    if (name.empty()) name = std::to_string(next_++);
    if (name.size() < 6 && name.find_first_not_of("0123456789") == std::string::npos) {
      const size_t index = std::stoul(name);
      if (index < arguments_.positional.size()) return arguments_.positional[index];
      return runtime_.Fail(Message("no value number ", index, " for the format"));
    }
    for (const auto& [given, value] : arguments_.named) {
      if (given == name) return value;
    }
    return runtime_.Fail(Message("no value '", name, "' for the format"));
  }

  Runtime& runtime_;
  const Value& format_;
  const Arguments& arguments_;
  size_t next_ = 0;
};

}  // namespace

std::string FormatValue(Runtime& runtime, const Value& value, std::string_view specification) {
  if (specification.empty()) return ToText(runtime, value);
  FormatSpecification how = ParseSpecification(runtime, specification);
  if (how.zeros && !value.is_string()) how.align = '=';
  if (!runtime.ok()) return "";
  if (value.is_string()) {
    if ((how.type == '\0' || how.type == 's') && how.align != '=' && how.sign == '-' &&
        !how.alternate && how.grouping == '\0') {
      return FormatText(runtime, value.string(), how);
    }
  } else if (value.is_integral()) {
    if (how.type == '\0' || std::string_view("bcdoxXn").find(how.type) != std::string_view::npos) {
      if (how.precision < 0) return FormatInteger(runtime, value.integral(), how);
    } else if (kFloatTypes.find(how.type) != std::string_view::npos) {
      return FormatFloat(runtime, value.number(), how);
    }
  } else if (value.is_float()) {
    if (how.type == '\0' || how.type == 'n' ||
        kFloatTypes.find(how.type) != std::string_view::npos) {
      return FormatFloat(runtime, value.number(), how);
    }
  }
  runtime.Fail(Message("format '", specification, "' for a ", value.KindName()));
  return "";
}

Value FormatPercent(Runtime& runtime, const Value& format, const Value& arguments) {
  if (!runtime.SpendBytes(format.string().size())) return Value();
  return PercentFormatter(runtime, format, arguments).Run();
}

Value FormatBraces(Runtime& runtime, const Value& format, const Arguments& arguments) {
  if (!runtime.SpendBytes(format.string().size())) return Value();
  std::string text = BraceFormatter(runtime, format, arguments).Run(format.string(), 0);
  return runtime.ok() ? runtime.MakeStringLike(format, std::move(text)) : Value();
}

}  // namespace mambad::text::jinja
