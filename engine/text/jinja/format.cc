#include "engine/text/jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/text/jinja/message.h"
#include "engine/text/jinja/unicode.h"

namespace mambad::text::jinja {
namespace {

// Python's repr(float): the shortest digits that read back as the same number, in fixed notation
// for exponents from -4 to 15.
std::string FloatText(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), number, std::chars_format::scientific);
  const std::string_view scientific(buffer, end.ptr - buffer);
  const size_t marker = scientific.find('e');
  int exponent = 0;
  const bool has_plus = scientific[marker + 1] == '+';
  std::from_chars(buffer + marker + (has_plus ? 2 : 1), end.ptr, exponent);
  if (exponent < -4 || exponent >= 16) return std::string(scientific);
  const auto fixed =
      std::to_chars(buffer, buffer + sizeof(buffer), number, std::chars_format::fixed);
  std::string text(buffer, fixed.ptr - buffer);
  if (text.find('.') == std::string::npos) text += ".0";
  return text;
}

// Approximates str.isprintable() for repr(): controls, separators, formats and surrogates are not
// printable.
bool IsPrintable(uint32_t code_point) {
  if (code_point < 0x20 || (code_point >= 0x7F && code_point < 0xA0)) return false;
  if (code_point == 0xAD || (IsSpace(code_point) && code_point != 0x20)) return false;
  if (code_point >= 0x200B && code_point <= 0x200F) return false;
  if (code_point >= 0x202A && code_point <= 0x202E) return false;
  if (code_point >= 0x2060 && code_point <= 0x206F) return false;
  if (code_point == 0xFEFF) return false;
  return !(code_point >= 0xD800 && code_point <= 0xF8FF) && code_point < 0xE0000;
}

void AppendQuoted(std::string_view text, std::string* out) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  out->push_back(quote);
  for (size_t offset = 0; offset < text.size();) {
    const uint32_t code_point = CodePointAt(text, offset);
    const size_t bytes = CharacterBytes(text, offset);
    if (code_point == '\n') {
      out->append("\\n");
    } else if (code_point == '\r') {
      out->append("\\r");
    } else if (code_point == '\t') {
      out->append("\\t");
    } else if (code_point == '\\' || code_point == static_cast<unsigned char>(quote)) {
      out->push_back('\\');
      out->push_back(static_cast<char>(code_point));
    } else if (IsPrintable(code_point)) {
      out->append(text.substr(offset, bytes));
    } else {
      AppendEscape(code_point, out);
    }
    offset += bytes;
  }
  out->push_back(quote);
}

// Writes one value; shared parts are written each time they occur, so the size is watched on the
// way.
class Writer {
 public:
  explicit Writer(Runtime& runtime) : runtime_(runtime) {}
  std::string Take() { return std::move(out_); }

  void AppendText(const Value& value) {
    if (value.is_undefined()) return;
    if (value.is_string()) {
      out_.append(value.string());
    } else {
      AppendRepresentation(value);
    }
  }

  void AppendJson(const Value& value, const JsonOptions& options, size_t level) {
    if (!Proceed()) return;
    if (value.is_string()) return AppendJsonString(value.string(), options.ensure_ascii);
    if (value.is_boolean()) return Append(value.boolean() ? "true" : "false");
    if (value.is_none()) return Append("null");
    if (value.is_float() && !std::isfinite(value.number())) {
      return Append(std::isnan(value.number()) ? "NaN"
                    : value.number() < 0       ? "-Infinity"
                                               : "Infinity");
    }
    if (value.is_number()) return AppendRepresentation(value);
    const List* list = value.list();
    if (list != nullptr && (list->kind == List::Kind::kList || list->kind == List::Kind::kTuple)) {
      return AppendJsonList(*list, options, level);
    }
    if (value.dict() != nullptr) return AppendJsonDict(*value.dict(), options, level);
    runtime_.Fail(Message("a ", value.KindName(), " cannot be written as JSON"));
  }

 private:
  void Append(std::string_view text) { out_.append(text); }

  bool Proceed() {
    if (out_.size() > Runtime::kMaximumTextBytes) {
      runtime_.Fail(Message("makes a text of more than ", Runtime::kMaximumTextBytes, " bytes"));
    }
    return runtime_.SpendSteps(1);
  }

  void AppendRepresentation(const Value& value) {
    if (!Proceed()) return;
    if (value.is_undefined()) return Append("Undefined");
    if (value.is_none()) return Append("None");
    if (value.is_boolean()) return Append(value.boolean() ? "True" : "False");
    if (value.is_integer()) return Append(Message(value.integral()));
    if (value.is_float()) return Append(FloatText(value.number()));
    if (value.is_string()) return AppendQuoted(value.string(), &out_);
    if (const List* list = value.list()) {
      if (list->kind == List::Kind::kList || list->kind == List::Kind::kTuple) {
        return AppendListRepresentation(*list);
      }
    }
    if (const Dict* dict = value.dict()) return AppendDictRepresentation(*dict);
    runtime_.FailUnimplemented(Message("printing a ", value.KindName()));
  }

  void AppendListRepresentation(const List& list) {
    const bool is_tuple = list.kind == List::Kind::kTuple;
    Append(is_tuple ? "(" : "[");
    for (size_t i = 0; i < list.items.size() && runtime_.ok(); ++i) {
      if (i > 0) Append(", ");
      AppendRepresentation(list.items[i]);
    }
    Append(!is_tuple ? "]" : list.items.size() == 1 ? ",)" : ")");
  }

  void AppendDictRepresentation(const Dict& dict) {
    Append("{");
    for (size_t i = 0; i < dict.entries.size() && runtime_.ok(); ++i) {
      if (i > 0) Append(", ");
      AppendRepresentation(dict.entries[i].first);
      Append(": ");
      AppendRepresentation(dict.entries[i].second);
    }
    Append("}");
  }

  void AppendLineBreak(const JsonOptions& options, size_t level) {
    if (!options.has_indent) return;
    Append("\n");
    for (size_t i = 0; i < level; ++i) Append(options.indent);
  }

  void AppendJsonList(const List& list, const JsonOptions& options, size_t level) {
    Append("[");
    for (size_t i = 0; i < list.items.size() && runtime_.ok(); ++i) {
      if (i > 0) Append(options.item_separator);
      AppendLineBreak(options, level + 1);
      AppendJson(list.items[i], options, level + 1);
    }
    if (!list.items.empty()) AppendLineBreak(options, level);
    Append("]");
  }

  void AppendJsonDict(const Dict& dict, const JsonOptions& options, size_t level) {
    std::vector<std::pair<Value, Value>> entries = dict.entries;
    if (options.sort_keys) SortByKey(&entries);
    Append("{");
    for (size_t i = 0; i < entries.size() && runtime_.ok(); ++i) {
      if (i > 0) Append(options.item_separator);
      AppendLineBreak(options, level + 1);
      const Value& key = entries[i].first;
      if (key.is_string()) {
        AppendJsonString(key.string(), options.ensure_ascii);
      } else if (key.is_number() || key.is_none()) {
        Append("\"");
        AppendJson(key, options, level);
        Append("\"");
      } else {
        runtime_.Fail(Message("a ", key.KindName(), " cannot be a key in JSON"));
      }
      Append(options.key_separator);
      AppendJson(entries[i].second, options, level + 1);
    }
    if (!entries.empty()) AppendLineBreak(options, level);
    Append("}");
  }

  void SortByKey(std::vector<std::pair<Value, Value>>* entries) {
    for (const auto& [key, value] : *entries) {
      if (!key.is_string()) {
        runtime_.FailUnimplemented("sorting keys that are not strings");
        return;
      }
    }
    std::stable_sort(entries->begin(), entries->end(), [](const auto& left, const auto& right) {
      return left.first.string() < right.first.string();
    });
  }

  void AppendJsonEscape(uint32_t code_unit) {
    Append("\\u");
    AppendHexadecimal(code_unit, 4, &out_);
  }

  void AppendJsonString(std::string_view text, bool ensure_ascii) {
    out_.push_back('"');
    for (size_t offset = 0; offset < text.size();) {
      const uint32_t code_point = CodePointAt(text, offset);
      const size_t bytes = CharacterBytes(text, offset);
      static constexpr std::string_view kShort = "\"\\\n\r\t\f\b";
      static constexpr std::string_view kLetters = "\"\\nrtfb";
      const size_t found =
          code_point < 0x80 ? kShort.find(static_cast<char>(code_point)) : std::string_view::npos;
      if (found != std::string_view::npos) {
        out_.push_back('\\');
        out_.push_back(kLetters[found]);
      } else if (code_point >= 0x10000 && ensure_ascii) {
        AppendJsonEscape(0xD800 + ((code_point - 0x10000) >> 10));
        AppendJsonEscape(0xDC00 + ((code_point - 0x10000) & 0x3FF));
      } else if (code_point < 0x20 || (code_point > 0x7E && ensure_ascii && code_point != 0x7F)) {
        AppendJsonEscape(code_point);
      } else {
        out_.append(text.substr(offset, bytes));
      }
      offset += bytes;
    }
    out_.push_back('"');
  }

  Runtime& runtime_;
  std::string out_;
};

}  // namespace

std::string ToText(Runtime& runtime, const Value& value) {
  Writer writer(runtime);
  writer.AppendText(value);
  std::string text = writer.Take();
  runtime.SpendBytes(text.size());
  return text;
}

std::string ToJson(Runtime& runtime, const Value& value, const JsonOptions& options) {
  Writer writer(runtime);
  writer.AppendJson(value, options, 0);
  std::string text = writer.Take();
  runtime.SpendBytes(text.size());
  return text;
}

}  // namespace mambad::text::jinja
