#ifndef MAMBAD_ENGINE_TEXT_JINJA_OPERATORS_H_
#define MAMBAD_ENGINE_TEXT_JINJA_OPERATORS_H_

#include <string_view>

#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/value.h"

// What the operators of an expression do, as Python and Jinja's sandbox do it. Errors go to the
// runtime.
namespace mambad::text::jinja {

// object.name: a method or attribute first, then an entry of that name. Undefined when there is
// neither.
Value GetAttribute(Runtime& runtime, const Value& object, const std::string& name);

// The same without entries.
Value GetOwnAttribute(Runtime& runtime, const Value& object, const std::string& name);

// object[index]: an entry first, then, for a string, the attribute. Undefined when there is
// neither.
Value GetItem(Runtime& runtime, const Value& object, const Value& index);

// object[start:stop:step]; none where a bound is absent. An error, unlike an index, where there is
// nothing to slice.
Value GetSlice(Runtime& runtime, const Value& object, const Value& start, const Value& stop,
               const Value& step);

// left operation right; operation is one of + - * / // % **.
Value ApplyBinary(Runtime& runtime, std::string_view operation, const Value& left,
                  const Value& right);

Value Negate(Runtime& runtime, const Value& value);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_OPERATORS_H_
