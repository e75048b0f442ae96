#include "engine/text/jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/text/jinja/message.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/syntax.h"
#include "engine/text/jinja/unicode.h"
#include "engine/text/jinja/unicode_case.h"

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
    if (list != nullptr && list->is_sequence()) {
      return AppendJsonList(*list, options, level);
    }
    if (value.dict() != nullptr) return AppendJsonDict(*value.dict(), options, level);
    runtime_.Fail(Message("a ", value.KindName(), " cannot be written as JSON"));
  }

  void AppendRepresentation(const Value& value) {
    if (!Proceed()) return;
    if (value.is_undefined()) return Append("Undefined");
    if (value.is_none()) return Append("None");
    if (value.is_boolean()) return Append(value.boolean() ? "True" : "False");
    if (value.is_integer()) return Append(Message(value.integral()));
    if (value.is_float()) return Append(FloatText(value.number()));
    if (value.is_markup()) Append("Markup(");
    if (value.is_string()) AppendQuoted(value.string(), &out_);
    if (value.is_markup()) Append(")");
    if (value.is_string()) return;
    if (const List* list = value.list()) return AppendListKind(*list);
    if (const Dict* dict = value.dict()) return AppendDictRepresentation(*dict);
    AppendObject(value);
  }

 private:
  void Append(std::string_view text) { out_.append(text); }

  bool Proceed() {
    if (out_.size() > Runtime::kMaximumTextBytes) runtime_.FailTooLong();
    return runtime_.SpendSteps(1);
  }

  void AppendListKind(const List& list) {
    switch (list.kind) {
      case List::Kind::kRange:
        Append(Message("range(", list.start, ", ", list.stop));
        if (list.step != 1) Append(Message(", ", list.step));
        return Append(")");
      case List::Kind::kKeys:
      case List::Kind::kValues:
      case List::Kind::kItems:
        Append(list.kind == List::Kind::kKeys     ? "dict_keys("
               : list.kind == List::Kind::kValues ? "dict_values("
                                                  : "dict_items(");
        AppendListRepresentation(list);
        return Append(")");
      case List::Kind::kIterator:
        runtime_.FailUnimplemented("printing the result of a filter without '|list'");
        return;
      default:
        return AppendListRepresentation(list);
    }
  }

  void AppendObject(const Value& value) {
    if (const Namespace* name_space = value.name_space()) {
      Append("<Namespace {");
      for (size_t i = 0; i < name_space->attributes.size() && runtime_.ok(); ++i) {
        if (i > 0) Append(", ");
        AppendQuoted(name_space->attributes[i].first, &out_);
        Append(": ");
        AppendRepresentation(name_space->attributes[i].second);
      }
      return Append("}>");
    }
    if (const Macro* macro = value.macro()) {
      if (macro->statement->kind == StatementKind::kCallBlock) return Append("<Macro anonymous>");
      Append("<Macro ");
      AppendQuoted(macro->statement->text, &out_);
      return Append(">");
    }
    if (Loop* loop = value.loop()) {
      return Append(Message("<LoopContext ", loop->index + 1, "/", loop->Length(), ">"));
    }
    runtime_.FailUnimplemented(Message("printing a ", value.KindName()));
  }

  void AppendListRepresentation(const List& list) {
    const bool is_tuple = list.is_tuple();
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
    Values keys;
    Values positions;
    for (size_t i = 0; i < entries->size(); ++i) {
      keys.push_back((*entries)[i].first);
      positions.push_back(Value::Integer(static_cast<int64_t>(i)));
    }
    SortByKeys(runtime_, keys, /*reverse=*/false, &positions);
    std::vector<std::pair<Value, Value>> sorted;
    for (const Value& position : positions) sorted.push_back((*entries)[position.integral()]);
    *entries = std::move(sorted);
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

std::string ToRepresentation(Runtime& runtime, const Value& value) {
  Writer writer(runtime);
  writer.AppendRepresentation(value);
  std::string text = writer.Take();
  runtime.SpendBytes(text.size());
  return text;
}

std::string Escape(Runtime& runtime, const Value& value) {
  std::string text = ToText(runtime, value);
  if (value.is_markup()) return text;
  std::string escaped;
  for (char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      case '"':
        escaped += "&#34;";
        break;
      default:
        escaped.push_back(c);
    }
  }
  if (escaped.size() > Runtime::kMaximumTextBytes) runtime.FailTooLong();
  return runtime.SpendBytes(escaped.size()) ? escaped : std::string();
}

std::string ToJson(Runtime& runtime, const Value& value, const JsonOptions& options) {
  Writer writer(runtime);
  writer.AppendJson(value, options, 0);
  std::string text = writer.Take();
  runtime.SpendBytes(text.size());
  return text;
}

}  // namespace mambad::text::jinja
