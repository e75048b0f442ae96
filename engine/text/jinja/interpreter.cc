#include "engine/text/jinja/interpreter.h"

#include "engine/text/jinja/format.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/rendering.h"

namespace mambad::text::jinja {

Rendering::Rendering(std::vector<std::pair<std::string, Value>> variables, const LocalTime& now)
    : now_(now), root_(std::make_shared<Scope>()), scope_(root_) {
  auto& root = root_->variables;
  root["range"] = Value::Of(Function::kRange);
  root["namespace"] = Value::Of(Function::kNamespace);
  root["dict"] = Value::Of(Function::kDict);
  root["cycler"] = Value::Of(Function::kCycler);
  root["joiner"] = Value::Of(Function::kJoiner);
  root["lipsum"] = Value::Of(Function::kLipsum);
  root["raise_exception"] = Value::Of(Function::kRaiseException);
  root["strftime_now"] = Value::Of(Function::kStrftimeNow);
  for (auto& [name, value] : variables) root[std::move(name)] = std::move(value);
}

Rendering::~Rendering() {
  for (const std::shared_ptr<Scope>& scope : macro_scopes_) scope->variables.clear();
}

absl::StatusOr<std::string> Rendering::Run(const StatementList& statements) {
  std::string output;
  output_ = &output;
  Execute(statements);
  if (!runtime_.ok()) return runtime_.status();
  return output;
}

Rendering::InnerScope::InnerScope(Rendering* rendering, std::shared_ptr<Scope> outer)
    : rendering_(rendering) {
  auto scope = std::make_shared<Scope>();
  scope->outer = std::move(outer);
  before_ = std::exchange(rendering->scope_, std::move(scope));
}

// --- Variables ---

Value Rendering::Lookup(const std::string& name) {
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->outer.get()) {
    if (!runtime_.SpendSteps(1)) return Value();
    const auto found = scope->variables.find(name);
    if (found != scope->variables.end()) return found->second;
  }
  return Value::Undefined(name);
}

void Rendering::Assign(const Target& target, const Value& value) {
  runtime_.set_position(target.position);
  if (!target.elements.empty()) return AssignElements(target, value);
  if (target.attribute.empty()) {
    scope_->variables[target.name] = value;
    return;
  }
  const Value object = Lookup(target.name);
  if (object.name_space() == nullptr) {
    runtime_.Fail(Message("'", target.name, "' is no namespace"));
    return;
  }
  SetNamespaceAttribute(runtime_, object.name_space(), target.attribute, value);
}

void Rendering::AssignElements(const Target& target, const Value& value) {
  const Values elements = Elements(runtime_, value);
  if (elements.size() != target.elements.size()) {
    runtime_.Fail(Message("cannot assign ", elements.size(), " values to ", target.elements.size(),
                          " names"));
    return;
  }
  for (size_t i = 0; i < elements.size() && runtime_.ok(); ++i) {
    Assign(target.elements[i], elements[i]);
  }
}

// --- Statements ---

Rendering::Flow Rendering::Execute(const StatementList& statements) {
  Runtime::Depth depth(runtime_);
  for (const Statement& statement : statements) {
    runtime_.set_position(statement.position);
    if (!runtime_.SpendSteps(1)) return Flow::kNext;
    const Flow flow = Execute(statement);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Rendering::Flow Rendering::Execute(const Statement& statement) {
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
      DefineMacro(statement);
      break;
    case StatementKind::kCallBlock:
      ExecuteCallBlock(statement);
      break;
    case StatementKind::kFilterBlock:
      ExecuteFilterBlock(statement);
      break;
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
    case StatementKind::kUnsupported:
      runtime_.FailUnimplemented(statement.text);
      break;
    default:
      return ExecuteInner(statement);
  }
  return Flow::kNext;
}

// Statements that are a body in a scope of its own.
Rendering::Flow Rendering::ExecuteInner(const Statement& statement) {
  if (statement.kind == StatementKind::kWith) return ExecuteWith(statement);
  if (statement.kind == StatementKind::kAutoescape && IsTrue(Evaluate(*statement.expression))) {
    runtime_.FailUnimplemented("escaping of all output");
    return Flow::kNext;
  }
  InnerScope scope(this, statement.kind == StatementKind::kBlock ? root_ : scope_);
  return Execute(statement.body);
}

Rendering::Flow Rendering::ExecuteWith(const Statement& statement) {
  Values values;
  for (const Assignment& assignment : statement.assignments) {
    values.push_back(Evaluate(*assignment.value));
    if (!runtime_.ok()) return Flow::kNext;
  }
  InnerScope scope(this, scope_);
  for (size_t i = 0; i < values.size(); ++i) Assign(statement.assignments[i].target, values[i]);
  return Execute(statement.body);
}

void Rendering::Write(std::string_view text) {
  if (output_->size() + text.size() > Runtime::kMaximumTextBytes) runtime_.FailTooLong();
  if (runtime_.SpendBytes(text.size())) output_->append(text);
}

void Rendering::WriteValue(const Value& value) {
  if (value.is_string()) {
    Write(value.string());
  } else {
    Write(ToText(runtime_, value));
  }
}

Rendering::Flow Rendering::ExecuteIf(const Statement& statement) {
  for (const Branch& branch : statement.branches) {
    const bool taken = branch.condition == nullptr || IsTrue(Evaluate(*branch.condition));
    if (!runtime_.ok()) return Flow::kNext;
    if (taken) return Execute(branch.body);
  }
  return Flow::kNext;
}

std::string Rendering::Capture(const StatementList& body) {
  std::string text;
  std::string* const outer = std::exchange(output_, &text);
  Execute(body);
  output_ = outer;
  return text;
}

Value Rendering::ApplyBlockFilters(const Statement& statement, std::string text) {
  Value captured = runtime_.MakeString(std::move(text));
  if (statement.expression == nullptr) return captured;
  // The filters' arguments may call macros with such blocks of their own.
  std::swap(captured_, captured);
  const Value value = Evaluate(*statement.expression);
  std::swap(captured_, captured);
  return value;
}

void Rendering::ExecuteSetBlock(const Statement& statement) {
  std::string text;
  {
    InnerScope scope(this, scope_);
    text = Capture(statement.body);
  }
  Assign(statement.target, ApplyBlockFilters(statement, std::move(text)));
}

void Rendering::ExecuteFilterBlock(const Statement& statement) {
  InnerScope scope(this, scope_);
  std::string text = Capture(statement.body);
  const Value value = ApplyBlockFilters(statement, std::move(text));
  if (!runtime_.ok()) return;
  // Here, and only here, the reference does not turn the value into text.
  if (!value.is_string()) {
    runtime_.Fail(Message("'filter' makes a ", value.KindName(), ", expected text"));
    return;
  }
  Write(value.string());
}

void Rendering::DefineMacro(const Statement& statement) {
  scope_->variables[statement.text] = MakeMacro(statement);
}

Value Rendering::MakeMacro(const Statement& statement) {
  // The scope lives as long as the rendering now, which has its price.
  if (!runtime_.SpendSteps(16)) return Value();
  if (macro_scopes_.empty() || macro_scopes_.back() != scope_) macro_scopes_.push_back(scope_);
  return Value::Of(std::make_shared<const Macro>(Macro{&statement, scope_}));
}

// --- Loops ---

void Rendering::ExecuteFor(const Statement& statement) {
  ExecuteRounds(statement, Evaluate(*statement.expression), 1);
}

bool Rendering::Matches(const Statement& statement, const Value& item,
                        const std::shared_ptr<Scope>& around) {
  InnerScope scope(this, around);
  Assign(statement.target, item);
  return IsTrue(Evaluate(*statement.condition)) && runtime_.ok();
}

void Rendering::ExecuteRounds(const Statement& statement, const Value& iterable, int depth) {
  const List* list = iterable.list();
  const size_t taken = list == nullptr ? 0 : list->taken;
  Values source = Elements(runtime_, iterable);
  auto loop = std::make_shared<Loop>();
  loop->depth = depth;
  loop->statement = &statement;
  loop->around = scope_;
  size_t next = 0;
  if (statement.condition == nullptr) {
    next = source.size();
    loop->items = std::move(source);
  } else {
    loop->fetch = [&, around = scope_] {
      while (next < source.size() && runtime_.SpendSteps(1)) {
        const Value& item = source[next++];
        if (!Matches(statement, item, around)) continue;
        loop->items.push_back(item);
        return true;
      }
      return false;
    };
  }
  // As in the reference, the alternative is for a loop of which no round came to its end, be it
  // by "break".
  bool completed_round = false;
  Flow flow = Flow::kNext;
  for (; flow != Flow::kBreak && loop->Has(loop->index) && runtime_.SpendSteps(1); ++loop->index) {
    flow = ExecuteRound(statement, loop);
    completed_round |= flow == Flow::kNext;
  }
  // A loop that was left leaves the rest of an iterator to others.
  if (flow == Flow::kBreak && list != nullptr && list->kind == List::Kind::kIterator) {
    list->taken = taken + (statement.condition == nullptr ? loop->index : next);
  }
  loop->fetch = nullptr;
  if (completed_round || !runtime_.ok()) return;
  InnerScope scope(this, scope_);
  Execute(statement.alternative);
}

Rendering::Flow Rendering::ExecuteRound(const Statement& statement,
                                        const std::shared_ptr<Loop>& loop) {
  InnerScope scope(this, scope_);
  const Value item = loop->items[loop->index];
  Assign(statement.target, item);
  scope_->variables["loop"] = Value::Of(loop);
  return Execute(statement.body);
}

Value Rendering::CallLoop(const Loop& loop, const Arguments& arguments) {
  if (!loop.statement->is_recursive) {
    return runtime_.Fail("'loop' is called, but its 'for' is not marked 'recursive'");
  }
  if (arguments.positional.size() != 1 || !arguments.named.empty()) {
    return runtime_.Fail("'loop' needs one argument");
  }
  Runtime::Depth depth(runtime_);
  if (!runtime_.ok()) return Value();
  std::string text;
  std::string* const outer = std::exchange(output_, &text);
  {
    // As long as the call lasts, the scope is that of the loop.
    std::shared_ptr<Scope> before = std::exchange(scope_, loop.around);
    ExecuteRounds(*loop.statement, arguments.positional[0], loop.depth + 1);
    scope_ = std::move(before);
  }
  output_ = outer;
  return runtime_.MakeString(std::move(text));
}

absl::StatusOr<std::string> Interpret(const StatementList& statements,
                                      std::vector<std::pair<std::string, Value>> variables,
                                      const LocalTime& now) {
  return Rendering(std::move(variables), now).Run(statements);
}

}  // namespace mambad::text::jinja
