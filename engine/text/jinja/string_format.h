// Python's three ways to put values into text. Errors go to the runtime.
#ifndef MAMBAD_ENGINE_TEXT_JINJA_STRING_FORMAT_H_
#define MAMBAD_ENGINE_TEXT_JINJA_STRING_FORMAT_H_

#include <string>
#include <string_view>

#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/value.h"

namespace mambad::text::jinja {

// format % arguments: a tuple's items one after another, a dict's by %(name)s, or one value.
Value FormatPercent(Runtime& runtime, const Value& format, const Value& arguments);

// format.format(arguments), as the sandbox does it: no attributes that begin with an underscore.
Value FormatBraces(Runtime& runtime, const Value& format, const Arguments& arguments);

// format(value, specification): fill, alignment, sign, width, grouping, precision, type.
std::string FormatValue(Runtime& runtime, const Value& value, std::string_view specification);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_STRING_FORMAT_H_
