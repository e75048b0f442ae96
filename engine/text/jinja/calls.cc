#include <algorithm>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/methods.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/rendering.h"

namespace mambad::text::jinja {

void Rendering::UnpackDict(const Value& given, Arguments* arguments) {
  if (given.dict() == nullptr) {
    runtime_.Fail(Message("'**' needs a dict, found ", given.KindName()));
    return;
  }
  for (const auto& [key, value] : given.dict()->entries) {
    if (!key.is_string()) {
      runtime_.Fail(Message("'**' needs strings as keys, found ", key.KindName()));
      return;
    }
    for (const auto& [earlier, unused] : arguments->named) {
      if (!runtime_.SpendSteps(1)) return;
      if (earlier == key.string()) {
        runtime_.Fail(Message("argument '", earlier, "' is given twice"));
      }
    }
    arguments->named.emplace_back(key.string(), value);
  }
}

Arguments Rendering::EvaluateArguments(const Expression& expression) {
  Arguments arguments;
  arguments.positional = EvaluateAll(expression.arguments);
  for (const auto& [name, value] : expression.named_arguments) {
    if (!runtime_.ok()) break;
    arguments.named.emplace_back(name, Evaluate(*value));
  }
  if (expression.unpacked_list != nullptr && runtime_.ok()) {
    for (Value& value : Elements(runtime_, Evaluate(*expression.unpacked_list))) {
      arguments.positional.push_back(std::move(value));
    }
  }
  if (expression.unpacked_dict != nullptr && runtime_.ok()) {
    UnpackDict(Evaluate(*expression.unpacked_dict), &arguments);
  }
  return arguments;
}

// `caller`: what a {% call %} block hands over, or null.
Value Rendering::EvaluateCall(const Expression& expression, const Value* caller) {
  const Value callee = Child(expression, 0);
  if (!runtime_.ok()) return Value();
  Arguments arguments = EvaluateArguments(expression);
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  if (!runtime_.ok()) return Value();
  return Call(callee, arguments);
}

Value Rendering::Call(const Value& callee, const Arguments& arguments) {
  if (const Function* function = callee.function()) {
    return CallFunction(runtime_, *function, arguments, now_);
  }
  if (callee.macro() != nullptr) {
    const Value kept = callee;  // the variable may be set anew meanwhile
    return CallMacro(*kept.macro(), arguments);
  }
  if (callee.method() != nullptr) return CallMethod(runtime_, *callee.method(), arguments);
  if (callee.loop() != nullptr) return CallLoop(*callee.loop(), arguments);
  if (callee.counter() != nullptr && callee.counter()->is_joiner) {
    return CallJoiner(runtime_, *callee.counter(), arguments);
  }
  if (callee.is_undefined()) return runtime_.FailUndefined(callee);
  return runtime_.Fail(Message("a ", callee.KindName(), " cannot be called"));
}

Value Rendering::CallMacro(const Macro& macro, const Arguments& arguments) {
  Runtime::Depth depth(runtime_);
  if (!runtime_.ok()) return Value();
  InnerScope scope(this, macro.scope);
  BindParameters(*macro.statement, arguments);
  std::string text = runtime_.ok() ? Capture(macro.statement->body) : std::string();
  return runtime_.MakeString(std::move(text));
}

void Rendering::BindParameters(const Statement& macro, Arguments arguments) {
  std::vector<const Parameter*> absent;
  bool has_caller = false;
  const size_t given = arguments.positional.size();
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Parameter& parameter = macro.parameters[i];
    has_caller |= parameter.name == "caller";
    if (i < given) {
      scope_->variables[parameter.name] = arguments.positional[i];
      continue;
    }
    const auto named =
        std::find_if(arguments.named.begin(), arguments.named.end(),
                     [&](const auto& argument) { return argument.first == parameter.name; });
    if (named == arguments.named.end()) {
      absent.push_back(&parameter);
      continue;
    }
    scope_->variables[parameter.name] = std::move(named->second);
    arguments.named.erase(named);
  }
  arguments.positional.erase(
      arguments.positional.begin(),
      arguments.positional.begin() + std::min(given, macro.parameters.size()));
  if (macro.uses_caller && !has_caller) {
    const auto named =
        std::find_if(arguments.named.begin(), arguments.named.end(),
                     [](const auto& argument) { return argument.first == "caller"; });
    Value caller = Value::Undefined("caller");
    if (named != arguments.named.end()) {
      caller = std::move(named->second);
      arguments.named.erase(named);
    }
    scope_->variables["caller"] = std::move(caller);
  }
  BindImplicit(macro, std::move(arguments));
  // Defaults last: they may use what was given.
  for (const Parameter* parameter : absent) {
    if (!runtime_.ok()) return;
    scope_->variables[parameter->name] = parameter->default_value != nullptr
                                             ? Evaluate(*parameter->default_value)
                                             : Value::Undefined(parameter->name);
  }
}

// What is left after the parameters: the macro takes it as varargs and kwargs, or not at all.
void Rendering::BindImplicit(const Statement& macro, Arguments arguments) {
  if (macro.uses_kwargs) {
    std::vector<std::pair<Value, Value>> entries;
    for (auto& [name, value] : arguments.named) {
      entries.emplace_back(Value::String(name), std::move(value));
    }
    scope_->variables["kwargs"] = runtime_.MakeDict(std::move(entries));
  } else if (!arguments.named.empty()) {
    runtime_.Fail(
        Message("macro '", macro.text, "' has no argument '", arguments.named[0].first, "'"));
  }
  if (macro.uses_varargs) {
    scope_->variables["varargs"] =
        runtime_.MakeList(std::move(arguments.positional), List::Kind::kTuple);
  } else if (!arguments.positional.empty()) {
    runtime_.Fail(Message("macro '", macro.text, "' takes at most ", macro.parameters.size(),
                          " arguments, found ",
                          macro.parameters.size() + arguments.positional.size()));
  }
}

void Rendering::ExecuteCallBlock(const Statement& statement) {
  const Value caller = MakeMacro(statement);
  WriteValue(EvaluateCall(*statement.expression, &caller));
}

}  // namespace mambad::text::jinja
