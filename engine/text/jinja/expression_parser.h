#ifndef MAMBAD_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_
#define MAMBAD_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_

#include <string>
#include <string_view>

#include "engine/text/jinja/syntax.h"
#include "engine/text/jinja/token_stream.h"

namespace mambad::text::jinja {

// Which of a macro's own variables were read.
struct MacroNames {
  bool caller = false, varargs = false, kwargs = false;
};

// Reads the expressions of a template. Faults go to the stream; what is returned then is of no use.
class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream* stream) : stream_(*stream) {}

  ExpressionPointer ParseExpression();
  // An expression or, with commas, a tuple without parentheses; ends before the name `end_name`.
  ExpressionPointer ParseTuple(bool with_condition, std::string_view end_name = "",
                               bool in_parentheses = false);
  // A whole operand with what follows it: attributes, calls, filters, tests.
  ExpressionPointer ParseOperand() { return ParseUnary(true); }
  // `| name(arguments)`, without the sign for the first of a {% filter %}; `subject` may be null.
  ExpressionPointer ParseFilter(ExpressionPointer subject, bool with_sign = true);

  // Read since the names were last reset.
  MacroNames names_read;

 private:
  ExpressionPointer ParseOr();
  ExpressionPointer ParseAnd();
  ExpressionPointer ParseNot();
  ExpressionPointer ParseCompare();
  ExpressionPointer ParseSum();
  ExpressionPointer ParseConcatenation();
  ExpressionPointer ParseProduct();
  ExpressionPointer ParsePower();
  ExpressionPointer ParseUnary(bool with_filter);
  ExpressionPointer ParsePrimary();
  void ParseName(Expression* node);
  void ParseStrings(Expression* node);
  void ParseElements(Expression* node, std::string_view closing, bool pairs);
  ExpressionPointer ParsePostfix(ExpressionPointer node);
  ExpressionPointer ParseSubscript(ExpressionPointer object);
  ExpressionPointer ParseIndices();
  ExpressionPointer ParseIndex();
  ExpressionPointer ParseCall(ExpressionPointer callee);
  void ParseArguments(Expression* node);
  void ParseNamedArgument(Expression* node);
  ExpressionPointer ParseTest(ExpressionPointer subject);
  std::string TakeComparison();

  ExpressionPointer New(ExpressionKind kind, Position position);
  ExpressionPointer NewBinary(ExpressionKind kind, Position position, ExpressionPointer left,
                              ExpressionPointer right);
  ExpressionPointer Negation(Position position, ExpressionPointer operand);
  void CoverDepth(Expression* parent, const Expression* child);
  void Adopt(Expression* parent, ExpressionPointer child);
  ExpressionPointer Adopted(Expression* parent, ExpressionPointer child);

  TokenStream& stream_;
};

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_
