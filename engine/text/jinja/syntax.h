#ifndef MAMBAD_ENGINE_TEXT_JINJA_SYNTAX_H_
#define MAMBAD_ENGINE_TEXT_JINJA_SYNTAX_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text/jinja/lexer.h"
#include "engine/text/jinja/value.h"

// The syntax tree of a template: made by the parser, never changed afterwards, walked by the
// interpreter. Its depth is bounded by kMaximumSyntaxDepth, so walking and destroying it by
// recursion is safe.
namespace mambad::text::jinja {

inline constexpr int kMaximumSyntaxDepth = 200;

enum class ExpressionKind {
  kConstant,     // constant
  kName,         // text
  kList,         // children
  kTuple,        // children
  kDict,         // children: key, value, key, value, ...
  kAttribute,    // children[0] . text
  kItem,         // children[0] [ children[1] ]
  kSlice,        // children: start, stop, step (null when absent); only as children[1] of kItem
  kCall,         // children[0] ( arguments )
  kFilter,       // children[0] | text ( arguments ); children[0] null: the text of a captured block
  kTest,         // children[0] is text ( arguments )
  kNegate,       // - children[0]
  kPlus,         // + children[0]
  kNot,          // not children[0]
  kAnd,          // children[0] and children[1]
  kOr,           // children[0] or children[1]
  kBinary,       // children[0] text children[1]; text is one of + - * / // % **
  kConcatenate,  // children joined by ~
  kCompare,      // children[0] operators[0] children[1] operators[1] ...; also "in" and "not in"
  kConditional,  // children: value, condition, alternative (null when absent)
  kUnsupported,  // an error where it is evaluated; text says what it is
};

struct Expression {
  ExpressionKind kind = ExpressionKind::kConstant;
  Position position;
  int depth = 1;
  std::string text;
  Value constant;
  std::vector<std::unique_ptr<Expression>> children;
  std::vector<std::unique_ptr<Expression>> arguments;
  std::vector<std::pair<std::string, std::unique_ptr<Expression>>> named_arguments;
  std::unique_ptr<Expression> unpacked_list;  // *argument, or null
  std::unique_ptr<Expression> unpacked_dict;  // **argument, or null
  std::vector<std::string> operators;
  bool of_constants = false;  // of kItem with a slice: the reference computes it beforehand
};

using ExpressionPointer = std::unique_ptr<Expression>;

// What {% set %} and {% for %} assign to: a name, an attribute of a namespace, or a tuple of
// targets.
struct Target {
  Position position;
  std::string name;       // empty for a tuple
  std::string attribute;  // of the namespace `name`, empty when the target is the name itself
  std::vector<Target> elements;
};

enum class StatementKind {
  kData,         // text
  kOutput,       // expression
  kSet,          // target = expression
  kSetBlock,     // target = text of body, through the filters of expression (null when none)
  kFor,          // target, expression (iterable), condition (null when absent), body, alternative
  kIf,           // branches; the last has a null condition when there is an else
  kMacro,        // text is the name; parameters; body
  kCallBlock,    // expression is the call that gets body as `caller`, with its parameters
  kFilterBlock,  // the text of body through the filters of expression
  kWith,         // assignments, then body in a scope of its own
  kBlock,        // body, seeing only what the template itself has set
  kBreak,
  kContinue,
  kGeneration,   // body in a scope of its own
  kAutoescape,   // body in a scope of its own; an error when expression is true
  kUnsupported,  // an error where it is reached; text says what it is
};

struct Statement;
using StatementList = std::vector<Statement>;

struct Branch {
  ExpressionPointer condition;
  StatementList body;
};

struct Parameter {
  std::string name;
  ExpressionPointer default_value;  // null when absent
};

struct Assignment {
  Target target;
  ExpressionPointer value;
};

struct Statement {
  StatementKind kind = StatementKind::kData;
  Position position;
  std::string text;
  Target target;
  ExpressionPointer expression;
  ExpressionPointer condition;
  std::vector<Branch> branches;
  std::vector<Parameter> parameters;
  std::vector<Assignment> assignments;
  StatementList body;
  StatementList alternative;
  bool is_recursive = false;  // of kFor
  // Of kMacro and kCallBlock: which of these names the body reads.
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_SYNTAX_H_
