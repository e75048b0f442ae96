#include "engine/text/jinja/interpreter.h"

#include <algorithm>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/methods.h"
#include "engine/text/jinja/operators.h"

namespace mambad::text::jinja {
namespace {

// Nested evaluations, through macros too. One takes a few hundred bytes of stack, so this stays far
// below the 8 MiB of a thread even with a sanitizer's frames.
constexpr int kMaximumDepth = 600;
constexpr int64_t kMaximumRange = 100'000;  // as the reference's sandbox
constexpr size_t kMaximumAttributes = 1'000;

// How a statement ended.
enum class Flow { kNext, kBreak, kContinue };

class Interpreter {
 public:
  Interpreter(std::vector<std::pair<std::string, Value>> variables,
              const std::optional<std::tm>& now)
      : now_(now) {
    Scope& root = scopes_.emplace_back();
    root["range"] = Value::Of(Function::kRange);
    root["namespace"] = Value::Of(Function::kNamespace);
    root["dict"] = Value::Of(Function::kDict);
    root["raise_exception"] = Value::Of(Function::kRaiseException);
    if (now.has_value()) root["strftime_now"] = Value::Of(Function::kStrftimeNow);
    for (auto& [name, value] : variables) root[std::move(name)] = std::move(value);
  }

  absl::StatusOr<std::string> Run(const StatementList& statements) {
    std::string output;
    output_ = &output;
    Execute(statements);
    if (!runtime_.ok()) return runtime_.status();
    return output;
  }

 private:
  using Scope = absl::flat_hash_map<std::string, Value>;

  class Depth {
   public:
    explicit Depth(Interpreter* interpreter) : interpreter_(interpreter) {
      if (++interpreter_->depth_ > kMaximumDepth)
        interpreter_->runtime_.Fail("calls nested too deeply");
    }
    ~Depth() { --interpreter_->depth_; }

   private:
    Interpreter* interpreter_;
  };

  // Variables set inside are gone afterwards.
  class InnerScope {
   public:
    explicit InnerScope(Interpreter* interpreter) : interpreter_(interpreter) {
      interpreter_->scopes_.emplace_back();
    }
    ~InnerScope() { interpreter_->scopes_.pop_back(); }

   private:
    Interpreter* interpreter_;
  };

  // --- Variables ---

  Value Lookup(const std::string& name) {
    for (size_t i = scopes_.size(); i > first_visible_; --i) {
      if (!runtime_.SpendSteps(1)) return Value();
      const auto found = scopes_[i - 1].find(name);
      if (found != scopes_[i - 1].end()) return found->second;
    }
    // A macro sees, past its own scopes, only those of the template itself.
    const auto found = scopes_.front().find(name);
    return found != scopes_.front().end() ? found->second : Value::Undefined(name);
  }

  void Assign(const Target& target, const Value& value) {
    runtime_.set_position(target.position);
    if (!target.elements.empty()) return AssignElements(target, value);
    if (target.attribute.empty()) {
      scopes_.back()[target.name] = value;
      return;
    }
    const Value object = Lookup(target.name);
    if (object.name_space() == nullptr) {
      runtime_.Fail(Message("'", target.name, "' is no namespace"));
      return;
    }
    SetAttribute(object.name_space(), target.attribute, value);
  }

  void AssignElements(const Target& target, const Value& value) {
    if (value.is_undefined()) {
      runtime_.FailUndefined(value);
      return;
    }
    const Values elements = Elements(runtime_, value);
    if (elements.size() != target.elements.size()) {
      runtime_.Fail(Message("cannot assign ", elements.size(), " values to ",
                            target.elements.size(), " names"));
      return;
    }
    for (size_t i = 0; i < elements.size() && runtime_.ok(); ++i) {
      Assign(target.elements[i], elements[i]);
    }
  }

  void SetAttribute(Namespace* name_space, const std::string& name, const Value& value) {
    if (!value.is_plain()) {
      runtime_.FailUnimplemented(Message("a ", value.KindName(), " in a namespace"));
      return;
    }
    for (auto& [attribute, present] : name_space->attributes) {
      if (!runtime_.SpendSteps(1)) return;
      if (attribute == name) {
        present = value;
        return;
      }
    }
    if (name_space->attributes.size() >= kMaximumAttributes) {
      runtime_.Fail("too many attributes in a namespace");
      return;
    }
    name_space->attributes.emplace_back(name, value);
  }

  // --- Statements ---

  Flow Execute(const StatementList& statements) {
    Depth depth(this);
    for (const Statement& statement : statements) {
      runtime_.set_position(statement.position);
      if (!runtime_.SpendSteps(1)) return Flow::kNext;
      const Flow flow = Execute(statement);
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  Flow Execute(const Statement& statement) {
    switch (statement.kind) {
      case StatementKind::kData:
        Write(statement.text);
        break;
      case StatementKind::kOutput:
        WriteValue(Evaluate(*statement.expression));
        break;
      case StatementKind::kSet:
        Assign(statement.target, Evaluate(*statement.expression));
        break;
      case StatementKind::kSetBlock:
        ExecuteSetBlock(statement);
        break;
      case StatementKind::kFor:
        ExecuteFor(statement);
        break;
      case StatementKind::kIf:
        return ExecuteIf(statement);
      case StatementKind::kMacro:
        scopes_.back()[statement.text] = Value::Of(&statement);
        break;
      case StatementKind::kBreak:
        return Flow::kBreak;
      case StatementKind::kContinue:
        return Flow::kContinue;
      case StatementKind::kGeneration: {
        InnerScope scope(this);
        Execute(statement.body);
        break;
      }
    }
    return Flow::kNext;
  }

  void Write(std::string_view text) {
    if (output_->size() + text.size() > Runtime::kMaximumTextBytes) {
      runtime_.Fail(Message("makes a text of more than ", Runtime::kMaximumTextBytes, " bytes"));
    }
    if (runtime_.SpendBytes(text.size())) output_->append(text);
  }

  void WriteValue(const Value& value) {
    if (value.is_string()) {
      Write(value.string());
    } else {
      Write(ToText(runtime_, value));
    }
  }

  Flow ExecuteIf(const Statement& statement) {
    for (const Branch& branch : statement.branches) {
      const bool taken = branch.condition == nullptr || IsTrue(Evaluate(*branch.condition));
      if (!runtime_.ok()) return Flow::kNext;
      if (taken) return Execute(branch.body);
    }
    return Flow::kNext;
  }

  // What `body` writes, kept from the output.
  std::string Capture(const StatementList& body) {
    std::string text;
    std::string* const outer = std::exchange(output_, &text);
    Execute(body);
    output_ = outer;
    return text;
  }

  void ExecuteSetBlock(const Statement& statement) {
    std::string text;
    {
      InnerScope scope(this);
      text = Capture(statement.body);
    }
    captured_ = runtime_.MakeString(std::move(text));
    const Value value =
        statement.expression == nullptr ? captured_ : Evaluate(*statement.expression);
    Assign(statement.target, value);
  }

  void ExecuteFor(const Statement& statement) {
    Values items = Elements(runtime_, Evaluate(*statement.expression));
    if (statement.condition != nullptr) items = KeepMatching(statement, std::move(items));
    const auto shared = std::make_shared<const Values>(std::move(items));
    // As in the reference, the alternative is for a loop of which no round came to its end, be it
    // by "break".
    bool completed_round = false;
    for (size_t i = 0; i < shared->size(); ++i) {
      if (!runtime_.SpendSteps(1)) return;
      InnerScope scope(this);
      Assign(statement.target, (*shared)[i]);
      auto loop = std::make_shared<Loop>();
      loop->items = shared;
      loop->index = i;
      scopes_.back()["loop"] = Value::Of(std::shared_ptr<const Loop>(std::move(loop)));
      const Flow flow = Execute(statement.body);
      completed_round |= flow == Flow::kNext;
      if (flow == Flow::kBreak) break;
    }
    if (completed_round || !runtime_.ok()) return;
    InnerScope scope(this);
    Execute(statement.alternative);
  }

  Values KeepMatching(const Statement& statement, Values items) {
    Values kept;
    for (Value& item : items) {
      if (!runtime_.SpendSteps(1)) break;
      InnerScope scope(this);
      Assign(statement.target, item);
      if (IsTrue(Evaluate(*statement.condition))) kept.push_back(std::move(item));
    }
    return kept;
  }

  // --- Expressions ---

  Value Evaluate(const Expression& expression) {
    Depth depth(this);
    if (!runtime_.SpendSteps(1)) return Value();
    const Position outer = runtime_.position();
    runtime_.set_position(expression.position);
    Value value = EvaluateKind(expression);
    if (runtime_.ok()) runtime_.set_position(outer);
    return value;
  }

  Value EvaluateKind(const Expression& expression) {
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
        return EvaluateCall(expression);
      case ExpressionKind::kFilter:
        return EvaluateFilter(expression);
      case ExpressionKind::kTest:
        return EvaluateTest(expression);
      default:
        return EvaluateOperator(expression);
    }
  }

  Value EvaluateOperator(const Expression& expression) {
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

  Value Child(const Expression& expression, size_t index) {
    return Evaluate(*expression.children[index]);
  }

  Value EvaluateAttribute(const Expression& expression) {
    const Value object = Child(expression, 0);
    return runtime_.ok() ? GetAttribute(runtime_, object, expression.text) : Value();
  }

  Values EvaluateAll(const std::vector<ExpressionPointer>& expressions) {
    Values values;
    for (const ExpressionPointer& expression : expressions) {
      if (!runtime_.ok()) break;
      values.push_back(Evaluate(*expression));
    }
    return values;
  }

  Value EvaluateDict(const Expression& expression) {
    Values flat = EvaluateAll(expression.children);
    if (!runtime_.ok()) return Value();
    std::vector<std::pair<Value, Value>> entries;
    for (size_t i = 0; i + 1 < flat.size(); i += 2) {
      entries.emplace_back(std::move(flat[i]), std::move(flat[i + 1]));
    }
    return runtime_.MakeDict(std::move(entries));
  }

  Value EvaluateItem(const Expression& expression) {
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
    return GetSlice(runtime_, object, bounds[0], bounds[1], bounds[2]);
  }

  Value EvaluateConcatenation(const Expression& expression) {
    std::string text;
    for (const ExpressionPointer& child : expression.children) {
      const Value value = Evaluate(*child);
      if (!runtime_.ok()) return Value();
      text += value.is_string() ? value.string() : ToText(runtime_, value);
      if (text.size() > Runtime::kMaximumTextBytes) break;
    }
    return runtime_.MakeString(std::move(text));
  }

  bool Compare(const std::string& comparison, const Value& left, const Value& right) {
    if (comparison == "==") return AreEqual(runtime_, left, right);
    if (comparison == "!=") return !AreEqual(runtime_, left, right);
    if (comparison == "<") return IsLess(runtime_, left, right, false);
    if (comparison == "<=") return IsLess(runtime_, left, right, true);
    if (comparison == ">") return IsLess(runtime_, right, left, false);
    if (comparison == ">=") return IsLess(runtime_, right, left, true);
    return Contains(runtime_, right, left) == (comparison == "in");
  }

  Value EvaluateComparison(const Expression& expression) {
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

  Value EvaluateConditional(const Expression& expression) {
    const bool condition = IsTrue(Child(expression, 1));
    if (!runtime_.ok()) return Value();
    if (condition) return Child(expression, 0);
    if (expression.children[2] != nullptr) return Child(expression, 2);
    return Value::Undefined("the value of an 'if' without 'else'");
  }

  // --- Calls ---

  Arguments EvaluateArguments(const Expression& expression) {
    Arguments arguments;
    arguments.positional = EvaluateAll(expression.arguments);
    for (const auto& [name, value] : expression.named_arguments) {
      if (!runtime_.ok()) break;
      arguments.named.emplace_back(name, Evaluate(*value));
    }
    return arguments;
  }

  Value EvaluateFilter(const Expression& expression) {
    const Value subject = expression.children[0] == nullptr ? captured_ : Child(expression, 0);
    const Arguments arguments = EvaluateArguments(expression);
    if (!runtime_.ok()) return Value();
    return ApplyFilter(runtime_, expression.text, subject, arguments);
  }

  Value EvaluateTest(const Expression& expression) {
    const Value subject = Child(expression, 0);
    const Arguments arguments = EvaluateArguments(expression);
    if (!runtime_.ok()) return Value();
    return Value::Boolean(ApplyTest(runtime_, expression.text, subject, arguments));
  }

  Value EvaluateCall(const Expression& expression) {
    const Value callee = Child(expression, 0);
    const Arguments arguments = EvaluateArguments(expression);
    if (!runtime_.ok()) return Value();
    if (callee.method() != nullptr) return CallMethod(runtime_, *callee.method(), arguments);
    if (callee.macro() != nullptr) return CallMacro(*callee.macro(), arguments);
    if (callee.function() != nullptr) return CallFunction(*callee.function(), arguments);
    if (callee.is_undefined()) return runtime_.FailUndefined(callee);
    return runtime_.Fail(Message("a ", callee.KindName(), " cannot be called"));
  }

  Value CallMacro(const Statement& macro, const Arguments& arguments) {
    if (arguments.positional.size() > macro.parameters.size()) {
      return runtime_.Fail(Message("macro '", macro.text, "' takes at most ",
                                   macro.parameters.size(), " arguments"));
    }
    InnerScope scope(this);
    const size_t outer_visible = std::exchange(first_visible_, scopes_.size() - 1);
    BindParameters(macro, arguments);
    std::string text = runtime_.ok() ? Capture(macro.body) : std::string();
    first_visible_ = outer_visible;
    return runtime_.MakeString(std::move(text));
  }

  void BindParameters(const Statement& macro, const Arguments& arguments) {
    for (const auto& [name, unused] : arguments.named) {
      const bool is_known =
          std::any_of(macro.parameters.begin(), macro.parameters.end(),
                      [&name = name](const Parameter& known) { return known.name == name; });
      if (!is_known) {
        runtime_.Fail(Message("macro '", macro.text, "' has no argument '", name, "'"));
      }
    }
    for (size_t i = 0; i < macro.parameters.size() && runtime_.ok(); ++i) {
      const Parameter& parameter = macro.parameters[i];
      Value value = Value::Undefined(parameter.name);
      if (const Value* given = FindArgument(arguments, i, parameter.name)) {
        value = *given;
      } else if (parameter.default_value != nullptr) {
        value = Evaluate(*parameter.default_value);
      }
      scopes_.back()[parameter.name] = std::move(value);
    }
  }

  Value CallFunction(Function function, const Arguments& arguments) {
    switch (function) {
      case Function::kRange:
        return CallRange(arguments);
      case Function::kNamespace:
      case Function::kDict:
        return CallDictOrNamespace(function, arguments);
      case Function::kRaiseException:
        if (!CheckArguments(runtime_, "raise_exception", arguments, {"message"}, 1)) return Value();
        return runtime_.Raise(ToText(runtime_, *FindArgument(arguments, 0, "message")));
      case Function::kStrftimeNow:
        return CallStrftimeNow(arguments);
    }
    return Value();
  }

  Value CallRange(const Arguments& arguments) {
    if (!CheckArguments(runtime_, "range", arguments, {"", "", ""}, 1)) return Value();
    int64_t bounds[3] = {0, 0, 1};
    const size_t count = arguments.positional.size();
    for (size_t i = 0; i < count; ++i) {
      bounds[count == 1 ? 1 : i] = IntegerArgument(runtime_, &arguments.positional[i], 0);
    }
    const auto [start, stop, step] = bounds;
    if (!runtime_.ok()) return Value();
    if (step == 0) return runtime_.Fail("range with a step of zero");
    Values items;
    // In 128 bits, because the next number may not fit 64.
    for (__int128 at = start; step > 0 ? at < stop : at > stop; at += step) {
      if (static_cast<int64_t>(items.size()) == kMaximumRange) {
        return runtime_.Fail(Message("range of more than ", kMaximumRange, " numbers"));
      }
      items.push_back(Value::Integer(static_cast<int64_t>(at)));
    }
    return runtime_.MakeList(std::move(items), List::Kind::kRange);
  }

  Value CallDictOrNamespace(Function function, const Arguments& arguments) {
    std::vector<std::pair<Value, Value>> entries;
    if (arguments.positional.size() > 1) return runtime_.Fail("more than one dict as argument");
    if (!arguments.positional.empty()) {
      const Dict* given = arguments.positional[0].dict();
      if (given == nullptr) return runtime_.FailUnimplemented("an argument that is no dict");
      if (!runtime_.SpendSteps(given->entries.size())) return Value();
      entries = given->entries;
    }
    for (const auto& [name, value] : arguments.named) {
      entries.emplace_back(Value::String(name), value);
    }
    if (function == Function::kDict) return runtime_.MakeDict(std::move(entries));
    auto name_space = std::make_shared<Namespace>();
    for (const auto& [key, value] : entries) {
      if (!key.is_string()) return runtime_.Fail("an attribute's name is no string");
      SetAttribute(name_space.get(), key.string(), value);
    }
    return Value::Of(std::move(name_space));
  }

  Value CallStrftimeNow(const Arguments& arguments) {
    if (!CheckArguments(runtime_, "strftime_now", arguments, {"format"}, 1)) return Value();
    const Value& format = *FindArgument(arguments, 0, "format");
    if (!format.is_string()) return runtime_.Fail("'strftime_now' needs a string");
    if (format.string().empty()) return Value::String("");
    char text[1024];
    const size_t size = std::strftime(text, sizeof(text), format.string().c_str(), &*now_);
    if (size == 0) return runtime_.Fail("'strftime_now' with a format that is too long");
    return runtime_.MakeString(std::string(text, size));
  }

  const std::optional<std::tm> now_;
  Runtime runtime_;
  std::vector<Scope> scopes_;
  size_t first_visible_ = 0;  // of scopes_; the root is always visible
  std::string* output_ = nullptr;
  Value captured_;  // the text of the {% set %} block whose filters are being applied
  int depth_ = 0;
};

}  // namespace

absl::StatusOr<std::string> Interpret(const StatementList& statements,
                                      std::vector<std::pair<std::string, Value>> variables,
                                      const std::optional<std::tm>& now) {
  return Interpreter(std::move(variables), now).Run(statements);
}

}  // namespace mambad::text::jinja
