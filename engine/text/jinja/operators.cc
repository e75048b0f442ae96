#include "engine/text/jinja/operators.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/text/jinja/format.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/methods.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/string_format.h"
#include "engine/text/jinja/syntax.h"
#include "engine/text/jinja/unicode.h"

namespace mambad::text::jinja {
namespace {

// The attribute proper, without entries; nullopt when there is none. The sandbox shows no attribute
// that begins with an underscore.
std::optional<Value> FindAttribute(Runtime& runtime, const Value& object, const std::string& name) {
  if (const Namespace* name_space = object.name_space()) {
    for (const auto& [attribute, value] : name_space->attributes) {
      if (!runtime.SpendSteps(1) || attribute == name) return value;
    }
    return std::nullopt;
  }
  if (name.starts_with("_")) return std::nullopt;
  if (object.loop() != nullptr) return FindLoopAttribute(object, name);
  const List* list = object.list();
  if (list != nullptr && list->kind == List::Kind::kGroup &&
      (name == "grouper" || name == "list")) {
    return list->items[name == "list"];
  }
  if (list != nullptr && list->kind == List::Kind::kRange) {
    if (name == "start") return Value::Integer(list->start);
    if (name == "stop") return Value::Integer(list->stop);
    if (name == "step") return Value::Integer(list->step);
  }
  if (object.macro() != nullptr && name == "name") {
    return Value::String(object.macro()->statement->text);
  }
  const Counter* counter = object.counter();
  if (counter != nullptr && !counter->is_joiner && name == "current") {
    return counter->items[counter->index % counter->items.size()];
  }
  switch (FindMethod(object, name)) {
    case MethodSupport::kSupported:
      return Value::Of(std::make_shared<const Method>(Method{object, name}));
    case MethodSupport::kUnsupported:
      return runtime.FailUnimplemented(Message("attribute '", name, "' of a ", object.KindName()));
    case MethodSupport::kNone:
      break;
  }
  return std::nullopt;
}

// The entry under `index`; nullopt when there is none.
std::optional<Value> FindItem(Runtime& runtime, const Value& object, const Value& index) {
  if (const Dict* dict = object.dict()) {
    if (!IsHashable(index)) return std::nullopt;
    const Value* value = FindKey(runtime, *dict, index);
    return value == nullptr ? std::nullopt : std::optional<Value>(*value);
  }
  if (!index.is_integral()) return std::nullopt;
  const int64_t at = index.integral();
  if (const List* list = object.list(); list != nullptr && list->is_indexable()) {
    const int64_t size = list->items.size();
    if (at >= size || at < -size) return std::nullopt;
    return list->items[at < 0 ? at + size : at];
  }
  if (!object.is_string()) return std::nullopt;
  const std::string& text = object.string();
  if (!runtime.SpendBytes(text.size())) return std::nullopt;
  const int64_t size = CountCharacters(text);
  if (at >= size || at < -size) return std::nullopt;
  int64_t skip = at < 0 ? at + size : at;
  size_t offset = 0;
  for (; skip > 0; --skip) offset += CharacterBytes(text, offset);
  std::string character = text.substr(offset, CharacterBytes(text, offset));
  return runtime.MakeStringLike(object, std::move(character));
}

}  // namespace

Value GetOwnAttribute(Runtime& runtime, const Value& object, const std::string& name) {
  if (object.is_undefined()) return runtime.FailUndefined(object);
  if (std::optional<Value> attribute = FindAttribute(runtime, object, name)) return *attribute;
  return Value::Undefined(name);
}

Value GetAttribute(Runtime& runtime, const Value& object, const std::string& name) {
  if (object.is_undefined()) return runtime.FailUndefined(object);
  if (std::optional<Value> attribute = FindAttribute(runtime, object, name)) return *attribute;
  if (object.dict() != nullptr) {
    if (std::optional<Value> item = FindItem(runtime, object, Value::String(name))) return *item;
  }
  return Value::Undefined(name);
}

Value GetItem(Runtime& runtime, const Value& object, const Value& index) {
  if (object.is_undefined()) return runtime.FailUndefined(object);
  if (std::optional<Value> item = FindItem(runtime, object, index)) return *item;
  if (!index.is_string()) return Value::Undefined("item");
  if (std::optional<Value> attribute = FindAttribute(runtime, object, index.string())) {
    return *attribute;
  }
  return Value::Undefined(index.string());
}

namespace {

// What a list made of another's items is: a part of a range is no range here, which shows only in
// how it is printed.
List::Kind KindOfNew(const List& list) {
  return list.is_tuple() ? List::Kind::kTuple : List::Kind::kList;
}

struct SliceBounds {
  int64_t start = 0;
  int64_t step = 1;
  int64_t count = 0;
};

// Python's slice.indices(). The bounds are integers or none.
SliceBounds ResolveSlice(int64_t size, const Value& start, const Value& stop, int64_t step) {
  auto resolve = [&](const Value& bound, int64_t absent) {
    if (bound.is_none()) return absent;
    const int64_t lowest = step < 0 ? -1 : 0;
    const int64_t highest = step < 0 ? size - 1 : size;
    const int64_t at = bound.integral();
    return std::clamp(at < 0 && at >= -size ? at + size : at < 0 ? lowest : at, lowest, highest);
  };
  SliceBounds bounds;
  bounds.step = step;
  bounds.start = resolve(start, step < 0 ? size - 1 : 0);
  const int64_t end = resolve(stop, step < 0 ? -1 : size);
  const int64_t distance = step < 0 ? bounds.start - end : end - bounds.start;
  // -(step + 1) + 1 unsigned: the most negative step has no positive counterpart.
  const uint64_t stride = step < 0 ? static_cast<uint64_t>(-(step + 1)) + 1 : step;
  if (distance > 0) bounds.count = 1 + static_cast<int64_t>((distance - 1) / stride);
  return bounds;
}

}  // namespace

Value GetSlice(Runtime& runtime, const Value& object, const Value& start, const Value& stop,
               const Value& step) {
  if (object.is_undefined()) return runtime.FailUndefined(object);
  for (const Value* bound : {&start, &stop, &step}) {
    if (bound->is_undefined()) return runtime.FailUndefined(*bound);
    if (!bound->is_none() && !bound->is_integral()) {
      return runtime.Fail(Message("slice from or to a ", bound->KindName()));
    }
  }
  const int64_t stride = step.is_none() ? 1 : step.integral();
  const List* list = object.list();
  const bool is_sliceable = object.is_string() || (list != nullptr && list->is_indexable());
  if (!is_sliceable) return runtime.Fail(Message("slice of a ", object.KindName()));
  if (stride == 0) return runtime.Fail("slice with a step of zero");
  if (list != nullptr) {
    const SliceBounds bounds = ResolveSlice(list->items.size(), start, stop, stride);
    if (!runtime.SpendSteps(bounds.count)) return Value();
    Values items;
    for (int64_t i = 0; i < bounds.count; ++i) {
      items.push_back(list->items[bounds.start + i * bounds.step]);
    }
    return runtime.MakeList(std::move(items), KindOfNew(*list));
  }
  if (!runtime.SpendBytes(object.string().size())) return Value();
  const std::string& text = object.string();
  std::vector<size_t> offsets;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) offsets.push_back(at);
  const SliceBounds bounds = ResolveSlice(offsets.size(), start, stop, stride);
  std::string result;
  for (int64_t i = 0; i < bounds.count; ++i) {
    const size_t at = offsets[bounds.start + i * bounds.step];
    result.append(text, at, CharacterBytes(text, at));
  }
  return runtime.MakeStringLike(object, std::move(result));
}

namespace {

Value FailOperands(Runtime& runtime, std::string_view operation, const Value& left,
                   const Value& right) {
  if (left.is_undefined()) return runtime.FailUndefined(left);
  if (right.is_undefined()) return runtime.FailUndefined(right);
  return runtime.Fail(
      Message("operator '", operation, "' between ", left.KindName(), " and ", right.KindName()));
}

Value DivideIntegers(Runtime& runtime, std::string_view operation, int64_t left, int64_t right) {
  if (right == 0) return runtime.Fail("division by zero");
  if (operation == "/") {
    return Value::Float(static_cast<double>(left) / static_cast<double>(right));
  }
  if (right == -1) {
    if (operation == "%") return Value::Integer(0);
    if (left == std::numeric_limits<int64_t>::min()) {
      return runtime.FailUnimplemented("an integer beyond 64 bits");
    }
    return Value::Integer(-left);
  }
  // C++ truncates, Python rounds down: one less when the signs differ and something is left over.
  const bool adjust = left % right != 0 && (left < 0) != (right < 0);
  if (operation == "//") return Value::Integer(left / right - adjust);
  return Value::Integer(left % right + (adjust ? right : 0));
}

// Multiplies again and again, so that no overflow goes unseen.
Value PowerOfIntegers(Runtime& runtime, int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return runtime.Fail("zero to a negative power");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  if (base == 0 || base == 1) return Value::Integer(exponent == 0 ? 1 : base);
  if (base == -1) return Value::Integer(exponent % 2 == 0 ? 1 : -1);
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) {
      return runtime.FailUnimplemented("an integer beyond 64 bits");
    }
  }
  return Value::Integer(result);
}

Value PowerOfFloats(Runtime& runtime, double base, double exponent) {
  if (base == 0 && exponent < 0) return runtime.Fail("zero to a negative power");
  if (base < 0 && std::floor(exponent) != exponent && std::isfinite(exponent)) {
    return runtime.FailUnimplemented("a complex number");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) {
    return runtime.Fail("a power out of range");
  }
  return Value::Float(result);
}

Value ApplyToIntegers(Runtime& runtime, std::string_view operation, int64_t left, int64_t right) {
  int64_t result = 0;
  bool overflow = false;
  if (operation == "**") return PowerOfIntegers(runtime, left, right);
  if (operation == "+") {
    overflow = __builtin_add_overflow(left, right, &result);
  } else if (operation == "-") {
    overflow = __builtin_sub_overflow(left, right, &result);
  } else if (operation == "*") {
    overflow = __builtin_mul_overflow(left, right, &result);
  } else {
    return DivideIntegers(runtime, operation, left, right);
  }
  if (overflow) return runtime.FailUnimplemented("an integer beyond 64 bits");
  return Value::Integer(result);
}

// Python's float_divmod: the remainder has the divisor's sign.
Value ApplyToFloats(Runtime& runtime, std::string_view operation, double left, double right) {
  if (operation == "+") return Value::Float(left + right);
  if (operation == "-") return Value::Float(left - right);
  if (operation == "*") return Value::Float(left * right);
  if (operation == "**") return PowerOfFloats(runtime, left, right);
  if (right == 0) return runtime.Fail("division by zero");
  if (operation == "/") return Value::Float(left / right);
  double remainder = std::fmod(left, right);
  double quotient = (left - remainder) / right;
  if (remainder != 0) {
    if ((right < 0) != (remainder < 0)) {
      remainder += right;
      quotient -= 1;
    }
  } else {
    remainder = std::copysign(0.0, right);
  }
  if (operation == "%") return Value::Float(remainder);
  if (quotient == 0) return Value::Float(std::copysign(0.0, left / right));
  const double floored = std::floor(quotient);
  return Value::Float(quotient - floored > 0.5 ? floored + 1 : floored);
}

Value RepeatText(Runtime& runtime, const Value& repeated, int64_t times) {
  const std::string& text = repeated.string();
  if (times <= 0 || text.empty()) return runtime.MakeStringLike(repeated, "");
  if (static_cast<uint64_t>(times) > Runtime::kMaximumTextBytes / text.size()) {
    return runtime.FailTooLong();
  }
  std::string result;
  result.reserve(times * text.size());
  for (int64_t i = 0; i < times; ++i) result += text;
  return runtime.MakeStringLike(repeated, std::move(result));
}

// left + right; what stands beside a markup is escaped.
Value JoinTexts(Runtime& runtime, const Value& left, const Value& right) {
  if (left.string().size() + right.string().size() > Runtime::kMaximumTextBytes) {
    return runtime.FailTooLong();
  }
  if (!left.is_markup() && !right.is_markup()) {
    return runtime.MakeString(left.string() + right.string());
  }
  return runtime.MakeMarkup(Escape(runtime, left) + Escape(runtime, right));
}

Value RepeatList(Runtime& runtime, const List& list, int64_t times) {
  Values items;
  if (times > 0 && !list.items.empty()) {
    const uint64_t limit = Runtime::kMaximumSteps / list.items.size();
    if (!runtime.SpendSteps(static_cast<uint64_t>(times) > limit ? Runtime::kMaximumSteps + 1
                                                                 : times * list.items.size())) {
      return Value();
    }
    for (int64_t i = 0; i < times; ++i) {
      items.insert(items.end(), list.items.begin(), list.items.end());
    }
  }
  return runtime.MakeList(std::move(items), KindOfNew(list));
}

bool IsConcatenable(const List* list) { return list != nullptr && list->is_sequence(); }

}  // namespace

Value ApplyBinary(Runtime& runtime, std::string_view operation, const Value& left,
                  const Value& right) {
  if (left.is_integral() && right.is_integral()) {
    return ApplyToIntegers(runtime, operation, left.integral(), right.integral());
  }
  if (left.is_number() && right.is_number()) {
    return ApplyToFloats(runtime, operation, left.number(), right.number());
  }
  if (operation == "+" && left.is_string() && right.is_string()) {
    return JoinTexts(runtime, left, right);
  }
  if (operation == "+" && IsConcatenable(left.list()) && IsConcatenable(right.list()) &&
      left.list()->is_tuple() == right.list()->is_tuple()) {
    if (!runtime.SpendSteps(left.list()->items.size() + right.list()->items.size())) {
      return Value();
    }
    Values items = left.list()->items;
    items.insert(items.end(), right.list()->items.begin(), right.list()->items.end());
    return runtime.MakeList(std::move(items), KindOfNew(*left.list()));
  }
  if (operation == "*") {
    const bool times_first = left.is_integral();
    const Value& repeated = times_first ? right : left;
    const Value& times = times_first ? left : right;
    if (times.is_integral() && repeated.is_string()) {
      return RepeatText(runtime, repeated, times.integral());
    }
    if (times.is_integral() && IsConcatenable(repeated.list())) {
      return RepeatList(runtime, *repeated.list(), times.integral());
    }
  }
  if (operation == "%" && left.is_string()) {
    return FormatPercent(runtime, left, right);
  }
  return FailOperands(runtime, operation, left, right);
}

Value Negate(Runtime& runtime, const Value& value) {
  if (value.is_float()) return Value::Float(-value.number());
  if (value.is_integral()) {
    return ApplyToIntegers(runtime, "-", 0, value.integral());
  }
  if (value.is_undefined()) return runtime.FailUndefined(value);
  return runtime.Fail(Message("operator '-' on a ", value.KindName()));
}

}  // namespace mambad::text::jinja
