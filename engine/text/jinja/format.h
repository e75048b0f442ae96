#ifndef MAMBAD_ENGINE_TEXT_JINJA_FORMAT_H_
#define MAMBAD_ENGINE_TEXT_JINJA_FORMAT_H_

#include <string>

#include "engine/text/jinja/value.h"

namespace mambad::text::jinja {

// Python's str(value): what {{ value }} prints. Undefined is empty.
std::string ToText(Runtime& runtime, const Value& value);

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
