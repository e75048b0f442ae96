#include <algorithm>
#include <iterator>

#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/rendering.h"

namespace mambad::text::jinja {

Value Rendering::Evaluate(const Expression& expression) {
  Runtime::Depth depth(runtime_);
  if (!runtime_.SpendSteps(1)) return Value();
  const Position outer = runtime_.position();
  runtime_.set_position(expression.position);
  Value value = EvaluateKind(expression);
  if (runtime_.ok()) runtime_.set_position(outer);
  return value;
}

Value Rendering::EvaluateKind(const Expression& expression) {
  switch (expression.kind) {
    case ExpressionKind::kConstant:
      return expression.constant;
    case ExpressionKind::kName:
      return Lookup(expression.text);
    case ExpressionKind::kList:
      return runtime_.MakeList(EvaluateAll(expression.children));
    case ExpressionKind::kTuple:
      return runtime_.MakeList(EvaluateAll(expression.children), List::Kind::kTuple);
    case ExpressionKind::kDict:
      return EvaluateDict(expression);
    case ExpressionKind::kAttribute:
      return EvaluateAttribute(expression);
    case ExpressionKind::kItem:
      return EvaluateItem(expression);
    case ExpressionKind::kSlice:
      return Value();  // only inside kItem
    case ExpressionKind::kCall:
      return EvaluateCall(expression, nullptr);
    case ExpressionKind::kFilter:
      return EvaluateFilter(expression);
    case ExpressionKind::kTest:
      return EvaluateTest(expression);
    case ExpressionKind::kUnsupported:
      return runtime_.FailUnimplemented(expression.text);
    default:
      return EvaluateOperator(expression);
  }
}

Value Rendering::EvaluateOperator(const Expression& expression) {
  switch (expression.kind) {
    case ExpressionKind::kNegate:
      return Negate(runtime_, Child(expression, 0));
    case ExpressionKind::kPlus:
      return ApplyBinary(runtime_, "+", Value::Integer(0), Child(expression, 0));
    case ExpressionKind::kNot:
      return Value::Boolean(!IsTrue(Child(expression, 0)));
    case ExpressionKind::kAnd: {
      Value left = Child(expression, 0);
      return IsTrue(left) ? Child(expression, 1) : left;
    }
    case ExpressionKind::kOr: {
      Value left = Child(expression, 0);
      return IsTrue(left) ? left : Child(expression, 1);
    }
    case ExpressionKind::kBinary: {
      const Value left = Child(expression, 0);
      const Value right = Child(expression, 1);
      if (!runtime_.ok()) return Value();
      return ApplyBinary(runtime_, expression.text, left, right);
    }
    case ExpressionKind::kConcatenate:
      return EvaluateConcatenation(expression);
    case ExpressionKind::kCompare:
      return EvaluateComparison(expression);
    default:
      return EvaluateConditional(expression);
  }
}

Value Rendering::Child(const Expression& expression, size_t index) {
  return Evaluate(*expression.children[index]);
}

Value Rendering::EvaluateAttribute(const Expression& expression) {
  const Value object = Child(expression, 0);
  return runtime_.ok() ? GetAttribute(runtime_, object, expression.text) : Value();
}

Values Rendering::EvaluateAll(const std::vector<ExpressionPointer>& expressions) {
  Values values;
  for (const ExpressionPointer& expression : expressions) {
    if (!runtime_.ok()) break;
    values.push_back(Evaluate(*expression));
  }
  return values;
}

Value Rendering::EvaluateDict(const Expression& expression) {
  Values flat = EvaluateAll(expression.children);
  if (!runtime_.ok()) return Value();
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i + 1 < flat.size(); i += 2) {
    entries.emplace_back(std::move(flat[i]), std::move(flat[i + 1]));
  }
  return runtime_.MakeDict(std::move(entries));
}

Value Rendering::EvaluateItem(const Expression& expression) {
  const Value object = Child(expression, 0);
  const Expression& index = *expression.children[1];
  if (index.kind != ExpressionKind::kSlice) {
    const Value key = Evaluate(index);
    return runtime_.ok() ? GetItem(runtime_, object, key) : Value();
  }
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    bounds[i] = index.children[i] == nullptr ? Value::None() : Evaluate(*index.children[i]);
  }
  if (!runtime_.ok()) return Value();
  const bool fits = (object.is_string() || object.list() != nullptr) &&
                    std::all_of(std::begin(bounds), std::end(bounds), [](const Value& bound) {
                      return bound.is_none() || bound.is_integral();
                    });
  // Computed beforehand, what cannot be sliced is no error.
  if (expression.of_constants && !fits) return Value::Undefined("a slice of constants");
  return GetSlice(runtime_, object, bounds[0], bounds[1], bounds[2]);
}

Value Rendering::EvaluateConcatenation(const Expression& expression) {
  std::string text;
  for (const ExpressionPointer& child : expression.children) {
    const Value value = Evaluate(*child);
    if (!runtime_.ok()) return Value();
    text += value.is_string() ? value.string() : ToText(runtime_, value);
    if (text.size() > Runtime::kMaximumTextBytes) break;
  }
  return runtime_.MakeString(std::move(text));
}

bool Rendering::Compare(const std::string& comparison, const Value& left, const Value& right) {
  if (comparison == "==") return AreEqual(runtime_, left, right);
  if (comparison == "!=") return !AreEqual(runtime_, left, right);
  if (comparison == "<") return IsLess(runtime_, left, right, false);
  if (comparison == "<=") return IsLess(runtime_, left, right, true);
  if (comparison == ">") return IsLess(runtime_, right, left, false);
  if (comparison == ">=") return IsLess(runtime_, right, left, true);
  return Contains(runtime_, right, left) == (comparison == "in");
}

Value Rendering::EvaluateComparison(const Expression& expression) {
  Value left = Child(expression, 0);
  for (size_t i = 0; i < expression.operators.size() && runtime_.ok(); ++i) {
    Value right = Child(expression, i + 1);
    if (!runtime_.ok() || !Compare(expression.operators[i], left, right)) {
      return Value::Boolean(false);
    }
    left = std::move(right);
  }
  return Value::Boolean(true);
}

Value Rendering::EvaluateConditional(const Expression& expression) {
  const bool condition = IsTrue(Child(expression, 1));
  if (!runtime_.ok()) return Value();
  if (condition) return Child(expression, 0);
  if (expression.children[2] != nullptr) return Child(expression, 2);
  return Value::Undefined("the value of an 'if' without 'else'");
}

Value Rendering::EvaluateFilter(const Expression& expression) {
  const Value subject = expression.children[0] == nullptr ? captured_ : Child(expression, 0);
  if (!runtime_.ok()) return Value();
  const Arguments arguments = EvaluateArguments(expression);
  if (!runtime_.ok()) return Value();
  return ApplyFilter(runtime_, expression.text, subject, arguments);
}

Value Rendering::EvaluateTest(const Expression& expression) {
  const Value subject = Child(expression, 0);
  if (!runtime_.ok()) return Value();
  const Arguments arguments = EvaluateArguments(expression);
  if (!runtime_.ok()) return Value();
  return Value::Boolean(ApplyTest(runtime_, expression.text, subject, arguments));
}

}  // namespace mambad::text::jinja
