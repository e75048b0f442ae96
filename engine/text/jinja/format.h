#ifndef MAMBAD_ENGINE_TEXT_JINJA_FORMAT_H_
#define MAMBAD_ENGINE_TEXT_JINJA_FORMAT_H_

#include <string>

#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/value.h"

// Values as text. Errors go to the runtime.
namespace mambad::text::jinja {

// Python's str(value): what {{ value }} prints. Undefined is empty.
std::string ToText(Runtime& runtime, const Value& value);

// Python's repr(value).
std::string ToRepresentation(Runtime& runtime, const Value& value);

// The text with & < > ' " as HTML's entities; a markup stays as it is.
std::string Escape(Runtime& runtime, const Value& value);

struct JsonOptions {
  bool has_indent = false;
  std::string indent;  // of one level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
  bool ensure_ascii = false;
};

// Python's json.dumps(value). An error for what JSON cannot hold.
std::string ToJson(Runtime& runtime, const Value& value, const JsonOptions& options);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_FORMAT_H_
