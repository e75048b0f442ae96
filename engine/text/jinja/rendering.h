#ifndef MAMBAD_ENGINE_TEXT_JINJA_RENDERING_H_
#define MAMBAD_ENGINE_TEXT_JINJA_RENDERING_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/jinja/functions.h"
#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/syntax.h"
#include "engine/text/jinja/value.h"

namespace mambad::text::jinja {

// One render of a template: statements in interpreter.cc, expressions in expressions.cc, calls of
// macros and loops in calls.cc. Lives on the stack of the rendering thread.
class Rendering {
 public:
  Rendering(std::vector<std::pair<std::string, Value>> variables, const LocalTime& now);
  ~Rendering();
  Rendering(const Rendering&) = delete;
  Rendering& operator=(const Rendering&) = delete;

  absl::StatusOr<std::string> Run(const StatementList& statements);

 private:
  // How a statement ended.
  enum class Flow { kNext, kBreak, kContinue };

  // A scope inside `outer`, while it lives: variables set in it are gone afterwards.
  class InnerScope {
   public:
    InnerScope(Rendering* rendering, std::shared_ptr<Scope> outer);
    ~InnerScope() { rendering_->scope_ = std::move(before_); }
    InnerScope(const InnerScope&) = delete;
    InnerScope& operator=(const InnerScope&) = delete;

   private:
    Rendering* rendering_;
    std::shared_ptr<Scope> before_;
  };

  // --- Variables ---
  Value Lookup(const std::string& name);
  void Assign(const Target& target, const Value& value);
  void AssignElements(const Target& target, const Value& value);

  // --- Statements ---
  Flow Execute(const StatementList& statements);
  Flow Execute(const Statement& statement);
  Flow ExecuteIf(const Statement& statement);
  Flow ExecuteInner(const Statement& statement);
  void ExecuteSetBlock(const Statement& statement);
  void ExecuteFilterBlock(const Statement& statement);
  Flow ExecuteWith(const Statement& statement);
  void DefineMacro(const Statement& statement);
  // The macro or call block, in the present scope.
  Value MakeMacro(const Statement& statement);
  void Write(std::string_view text);
  void WriteValue(const Value& value);
  // What `body` writes, kept from the output.
  std::string Capture(const StatementList& body);
  // The text after the filters of a {% set %} or {% filter %} block.
  Value ApplyBlockFilters(const Statement& statement, std::string text);

  // --- Loops ---
  void ExecuteFor(const Statement& statement);
  // The rounds over `iterable`, standing in the present scope.
  void ExecuteRounds(const Statement& statement, const Value& iterable, int depth);
  Flow ExecuteRound(const Statement& statement, const std::shared_ptr<Loop>& loop);
  bool Matches(const Statement& statement, const Value& item, const std::shared_ptr<Scope>& around);
  Value CallLoop(const Loop& loop, const Arguments& arguments);

  // --- Expressions ---
  Value Evaluate(const Expression& expression);
  Value EvaluateKind(const Expression& expression);
  Value EvaluateOperator(const Expression& expression);
  Value Child(const Expression& expression, size_t index);
  Values EvaluateAll(const std::vector<ExpressionPointer>& expressions);
  Value EvaluateAttribute(const Expression& expression);
  Value EvaluateDict(const Expression& expression);
  Value EvaluateItem(const Expression& expression);
  Value EvaluateConcatenation(const Expression& expression);
  bool Compare(const std::string& comparison, const Value& left, const Value& right);
  Value EvaluateComparison(const Expression& expression);
  Value EvaluateConditional(const Expression& expression);
  Value EvaluateFilter(const Expression& expression);
  Value EvaluateTest(const Expression& expression);

  // --- Calls ---
  Arguments EvaluateArguments(const Expression& expression);
  void UnpackDict(const Value& given, Arguments* arguments);
  Value EvaluateCall(const Expression& expression, const Value* caller);
  Value Call(const Value& callee, const Arguments& arguments);
  Value CallMacro(const Macro& macro, const Arguments& arguments);
  void BindParameters(const Statement& macro, Arguments arguments);
  void BindImplicit(const Statement& macro, Arguments arguments);
  void ExecuteCallBlock(const Statement& statement);

  const LocalTime now_;
  Runtime runtime_;
  std::shared_ptr<Scope> root_;
  std::shared_ptr<Scope> scope_;  // the present one
  // Scopes that macros were defined in: they hold each other, until this lets them go.
  std::vector<std::shared_ptr<Scope>> macro_scopes_;
  std::string* output_ = nullptr;
  Value captured_;  // the text of the block whose filters are being applied
};

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_RENDERING_H_
