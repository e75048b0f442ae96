#include "engine/text/jinja/expression_parser.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "engine/text/jinja/message.h"

namespace mambad::text::jinja {

using Nesting = TokenStream::Nesting;

namespace {

// Whether the reference computes the expression, which has no names in it, before it makes a
// program of the template.
bool IsOfConstants(const Expression& expression) {
  switch (expression.kind) {
    case ExpressionKind::kName:
    case ExpressionKind::kAttribute:
    case ExpressionKind::kCall:
    case ExpressionKind::kUnsupported:
      return false;
    default:
      break;
  }
  const auto constant = [](const ExpressionPointer& part) {
    return part == nullptr || IsOfConstants(*part);
  };
  return std::all_of(expression.children.begin(), expression.children.end(), constant) &&
         std::all_of(expression.arguments.begin(), expression.arguments.end(), constant) &&
         expression.named_arguments.empty() && expression.unpacked_list == nullptr &&
         expression.unpacked_dict == nullptr;
}

// The number that a literal and the signs before it make; none for what is no such thing.
std::optional<double> SignedNumber(const Expression& expression) {
  if (expression.kind == ExpressionKind::kConstant && expression.constant.is_number()) {
    return expression.constant.number();
  }
  const bool negates = expression.kind == ExpressionKind::kNegate;
  if (!negates && expression.kind != ExpressionKind::kPlus) return std::nullopt;
  const std::optional<double> number = SignedNumber(*expression.children[0]);
  return number.has_value() && negates ? -*number : number;
}

}  // namespace

ExpressionPointer ExpressionParser::New(ExpressionKind kind, Position position) {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->position = position;
  return expression;
}

void ExpressionParser::CoverDepth(Expression* parent, const Expression* child) {
  if (child == nullptr) return;
  parent->depth = std::max(parent->depth, child->depth + 1);
  if (parent->depth > kMaximumSyntaxDepth) stream_.Fail("expression nested too deeply");
}

void ExpressionParser::Adopt(Expression* parent, ExpressionPointer child) {
  parent->children.push_back(Adopted(parent, std::move(child)));
}

ExpressionPointer ExpressionParser::Adopted(Expression* parent, ExpressionPointer child) {
  CoverDepth(parent, child.get());
  return child;
}

ExpressionPointer ExpressionParser::NewBinary(ExpressionKind kind, Position position,
                                              ExpressionPointer left, ExpressionPointer right) {
  ExpressionPointer node = New(kind, position);
  Adopt(node.get(), std::move(left));
  Adopt(node.get(), std::move(right));
  return node;
}

// --- Operators, weakest binding first ---

ExpressionPointer ExpressionParser::ParseTuple(bool with_condition, std::string_view end_name,
                                               bool in_parentheses) {
  Nesting nesting(&stream_);
  const Position position = stream_.Peek().position;
  ExpressionPointer tuple = New(ExpressionKind::kTuple, position);
  bool has_comma = false;
  while (stream_.ok()) {
    if (!tuple->children.empty()) stream_.ExpectOperator(",");
    if (stream_.AtTagEnd() || stream_.AtOperator(")") ||
        (!end_name.empty() && stream_.AtName(end_name))) {
      break;
    }
    Adopt(tuple.get(), with_condition ? ParseExpression() : ParseOr());
    if (!stream_.AtOperator(",")) break;
    has_comma = true;
  }
  if (has_comma) return tuple;
  if (!tuple->children.empty()) return std::move(tuple->children[0]);
  if (!in_parentheses) stream_.FailExpected("an expression");
  return tuple;
}

ExpressionPointer ExpressionParser::ParseExpression() {
  Nesting nesting(&stream_);
  const Position position = stream_.Peek().position;
  ExpressionPointer value = ParseOr();
  while (stream_.SkipName("if")) {
    ExpressionPointer node = New(ExpressionKind::kConditional, position);
    Adopt(node.get(), std::move(value));
    Adopt(node.get(), ParseOr());
    Adopt(node.get(), stream_.SkipName("else") ? ParseExpression() : nullptr);
    value = std::move(node);
  }
  return value;
}

ExpressionPointer ExpressionParser::ParseOr() {
  ExpressionPointer left = ParseAnd();
  for (Position at = stream_.Peek().position; stream_.SkipName("or");
       at = stream_.Peek().position) {
    left = NewBinary(ExpressionKind::kOr, at, std::move(left), ParseAnd());
  }
  return left;
}

ExpressionPointer ExpressionParser::ParseAnd() {
  ExpressionPointer left = ParseNot();
  for (Position at = stream_.Peek().position; stream_.SkipName("and");
       at = stream_.Peek().position) {
    left = NewBinary(ExpressionKind::kAnd, at, std::move(left), ParseNot());
  }
  return left;
}

ExpressionPointer ExpressionParser::ParseNot() {
  Nesting nesting(&stream_);
  const Position position = stream_.Peek().position;
  if (!stream_.SkipName("not")) return ParseCompare();
  ExpressionPointer node = New(ExpressionKind::kNot, position);
  Adopt(node.get(), ParseNot());
  return node;
}

// The comparison operator here, taken, or "".
std::string ExpressionParser::TakeComparison() {
  for (std::string_view text : {"==", "!=", "<", "<=", ">", ">="}) {
    if (stream_.SkipOperator(text)) return std::string(text);
  }
  if (stream_.SkipName("in")) return "in";
  if (!stream_.AtName("not") || !stream_.AtName("in", 1)) return "";
  stream_.Take();
  stream_.Take();
  return "not in";
}

ExpressionPointer ExpressionParser::ParseCompare() {
  ExpressionPointer first = ParseSum();
  const Position position = stream_.Peek().position;
  std::string comparison = TakeComparison();
  if (comparison.empty()) return first;
  ExpressionPointer node = New(ExpressionKind::kCompare, position);
  Adopt(node.get(), std::move(first));
  for (; !comparison.empty(); comparison = TakeComparison()) {
    node->operators.push_back(comparison);
    Adopt(node.get(), ParseSum());
  }
  return node;
}

ExpressionPointer ExpressionParser::ParseSum() {
  ExpressionPointer left = ParseConcatenation();
  while (stream_.AtOperator("+") || stream_.AtOperator("-")) {
    const Token token = stream_.Take();
    left =
        NewBinary(ExpressionKind::kBinary, token.position, std::move(left), ParseConcatenation());
    left->text = token.text;
  }
  return left;
}

ExpressionPointer ExpressionParser::ParseConcatenation() {
  ExpressionPointer first = ParseProduct();
  if (!stream_.AtOperator("~")) return first;
  ExpressionPointer node = New(ExpressionKind::kConcatenate, stream_.Peek().position);
  Adopt(node.get(), std::move(first));
  while (stream_.SkipOperator("~")) Adopt(node.get(), ParseProduct());
  return node;
}

ExpressionPointer ExpressionParser::ParseProduct() {
  ExpressionPointer left = ParsePower();
  while (stream_.AtOperator("*") || stream_.AtOperator("/") || stream_.AtOperator("//") ||
         stream_.AtOperator("%")) {
    const Token token = stream_.Take();
    left = NewBinary(ExpressionKind::kBinary, token.position, std::move(left), ParsePower());
    left->text = token.text;
  }
  return left;
}

// From left to right, and the sign of the left operand binds stronger, unlike in Python. Only a
// negative number before what is no constant goes as Python reads the reference's program:
// "-2 ** n" is -(2 ** n).
ExpressionPointer ExpressionParser::ParsePower() {
  ExpressionPointer left = ParseUnary(true);
  while (stream_.AtOperator("**")) {
    const Token token = stream_.Take();
    ExpressionPointer right = ParseUnary(true);
    const std::optional<double> number = SignedNumber(*left);
    const bool sign_last = number.has_value() && *number < 0 && !IsOfConstants(*right);
    if (sign_last) left = Negation(token.position, std::move(left));
    left = NewBinary(ExpressionKind::kBinary, token.position, std::move(left), std::move(right));
    left->text = token.text;
    if (sign_last) left = Negation(token.position, std::move(left));
  }
  return left;
}

ExpressionPointer ExpressionParser::Negation(Position position, ExpressionPointer operand) {
  ExpressionPointer node = New(ExpressionKind::kNegate, position);
  Adopt(node.get(), std::move(operand));
  return node;
}

ExpressionPointer ExpressionParser::ParseUnary(bool with_filter) {
  Nesting nesting(&stream_);
  const Position position = stream_.Peek().position;
  ExpressionPointer node;
  if (stream_.AtOperator("-") || stream_.AtOperator("+")) {
    const bool negate = stream_.Take().text == "-";
    node = New(negate ? ExpressionKind::kNegate : ExpressionKind::kPlus, position);
    Adopt(node.get(), ParseUnary(false));
  } else {
    node = ParsePrimary();
  }
  node = ParsePostfix(std::move(node));
  while (with_filter && stream_.ok()) {
    if (stream_.AtOperator("|")) {
      node = ParseFilter(std::move(node));
    } else if (stream_.AtName("is")) {
      node = ParseTest(std::move(node));
    } else if (stream_.AtOperator("(")) {
      node = ParseCall(std::move(node));
    } else {
      break;
    }
  }
  return node;
}

// --- Operands ---

void ExpressionParser::ParseName(Expression* node) {
  const std::string name = stream_.Take().text;
  if (name == "true" || name == "True") {
    node->constant = Value::Boolean(true);
  } else if (name == "false" || name == "False") {
    node->constant = Value::Boolean(false);
  } else if (name == "none" || name == "None") {
    node->constant = Value::None();
  } else {
    node->kind = ExpressionKind::kName;
    node->text = name;
    names_read.caller |= name == "caller";
    names_read.varargs |= name == "varargs";
    names_read.kwargs |= name == "kwargs";
  }
}

// Strings one after another are one.
void ExpressionParser::ParseStrings(Expression* node) {
  std::string text;
  while (stream_.Peek().kind == TokenKind::kString) {
    const Token token = stream_.Take();
    text += token.text;
    if (token.unsupported.empty()) continue;
    node->kind = ExpressionKind::kUnsupported;
    node->text = token.unsupported;
  }
  node->constant = Value::String(std::move(text));
}

ExpressionPointer ExpressionParser::ParsePrimary() {
  ExpressionPointer node = New(ExpressionKind::kConstant, stream_.Peek().position);
  const TokenKind kind = stream_.Peek().kind;
  if (kind == TokenKind::kName) {
    ParseName(node.get());
  } else if (kind == TokenKind::kString) {
    ParseStrings(node.get());
  } else if (kind == TokenKind::kInteger) {
    const Token token = stream_.Take();
    node->constant = Value::Integer(token.integer);
    if (!token.unsupported.empty()) {
      node->kind = ExpressionKind::kUnsupported;
      node->text = token.unsupported;
    }
  } else if (kind == TokenKind::kFloat) {
    node->constant = Value::Float(stream_.Take().number);
  } else if (stream_.SkipOperator("(")) {
    node = ParseTuple(true, "", true);
    stream_.ExpectOperator(")");
  } else if (stream_.SkipOperator("[")) {
    node->kind = ExpressionKind::kList;
    ParseElements(node.get(), "]", false);
  } else if (stream_.SkipOperator("{")) {
    node->kind = ExpressionKind::kDict;
    ParseElements(node.get(), "}", true);
  } else {
    stream_.FailExpected("an expression");
  }
  return node;
}

void ExpressionParser::ParseElements(Expression* node, std::string_view closing, bool pairs) {
  while (stream_.ok() && !stream_.AtOperator(closing)) {
    if (!node->children.empty()) stream_.ExpectOperator(",");
    if (stream_.AtOperator(closing)) break;
    Adopt(node, ParseExpression());
    if (!pairs) continue;
    stream_.ExpectOperator(":");
    Adopt(node, ParseExpression());
  }
  stream_.ExpectOperator(closing);
}

ExpressionPointer ExpressionParser::ParsePostfix(ExpressionPointer node) {
  while (stream_.ok()) {
    if (stream_.AtOperator(".") || stream_.AtOperator("[")) {
      node = ParseSubscript(std::move(node));
    } else if (stream_.AtOperator("(")) {
      node = ParseCall(std::move(node));
    } else {
      break;
    }
  }
  return node;
}

ExpressionPointer ExpressionParser::ParseSubscript(ExpressionPointer object) {
  const Token token = stream_.Take();
  if (token.text == "[") {
    ExpressionPointer node = New(ExpressionKind::kItem, token.position);
    Adopt(node.get(), std::move(object));
    Adopt(node.get(), ParseIndices());
    stream_.ExpectOperator("]");
    node->of_constants = stream_.ok() && IsOfConstants(*node);
    return node;
  }
  const bool is_index = stream_.Peek().kind == TokenKind::kInteger;
  ExpressionPointer node =
      New(is_index ? ExpressionKind::kItem : ExpressionKind::kAttribute, token.position);
  Adopt(node.get(), std::move(object));
  if (is_index) {
    Adopt(node.get(), ParsePrimary());
  } else {
    node->text = stream_.ExpectName();
  }
  return node;
}

// One index, or several, which count as a tuple.
ExpressionPointer ExpressionParser::ParseIndices() {
  ExpressionPointer first = ParseIndex();
  if (!stream_.AtOperator(",")) return first;
  ExpressionPointer tuple = New(ExpressionKind::kTuple, first->position);
  bool has_slice = first->kind == ExpressionKind::kSlice;
  Adopt(tuple.get(), std::move(first));
  while (stream_.SkipOperator(",")) {
    Adopt(tuple.get(), ParseIndex());
    has_slice |= tuple->children.back()->kind == ExpressionKind::kSlice;
  }
  if (has_slice) {
    tuple->kind = ExpressionKind::kUnsupported;
    tuple->text = "a slice among several indices";
  }
  return tuple;
}

ExpressionPointer ExpressionParser::ParseIndex() {
  const Position position = stream_.Peek().position;
  ExpressionPointer start;
  if (!stream_.AtOperator(":")) {
    start = ParseExpression();
    if (!stream_.AtOperator(":")) return start;
  }
  ExpressionPointer slice = New(ExpressionKind::kSlice, position);
  Adopt(slice.get(), std::move(start));
  stream_.Take();
  auto parse_bound = [this]() -> ExpressionPointer {
    if (stream_.AtOperator(":") || stream_.AtOperator("]") || stream_.AtOperator(",")) {
      return nullptr;
    }
    return ParseExpression();
  };
  Adopt(slice.get(), parse_bound());
  Adopt(slice.get(), stream_.SkipOperator(":") ? parse_bound() : nullptr);
  return slice;
}

// --- Calls, filters, tests ---

ExpressionPointer ExpressionParser::ParseCall(ExpressionPointer callee) {
  ExpressionPointer node = New(ExpressionKind::kCall, stream_.Peek().position);
  Adopt(node.get(), std::move(callee));
  ParseArguments(node.get());
  return node;
}

void ExpressionParser::ParseNamedArgument(Expression* node) {
  std::string name = stream_.Take().text;
  stream_.Take();
  ExpressionPointer value = Adopted(node, ParseExpression());
  if (node->unpacked_dict != nullptr) stream_.Fail("argument after '**'");
  for (const auto& [earlier, unused] : node->named_arguments) {
    if (earlier == name) stream_.Fail(Message("argument '", name, "' is given twice"));
  }
  // Names are compared pairwise above, so their number is bounded.
  if (node->named_arguments.size() >= 64) stream_.Fail("more than 64 named arguments");
  node->named_arguments.emplace_back(std::move(name), std::move(value));
}

void ExpressionParser::ParseArguments(Expression* node) {
  Nesting nesting(&stream_);
  stream_.ExpectOperator("(");
  bool first = true;
  while (stream_.ok() && !stream_.AtOperator(")")) {
    if (!std::exchange(first, false)) stream_.ExpectOperator(",");
    if (stream_.AtOperator(")")) break;
    if (stream_.SkipOperator("**")) {
      if (node->unpacked_dict != nullptr) stream_.Fail("'**' is given twice");
      node->unpacked_dict = Adopted(node, ParseExpression());
    } else if (stream_.SkipOperator("*")) {
      if (node->unpacked_list != nullptr || node->unpacked_dict != nullptr) {
        stream_.Fail("'*' after another '*' or '**'");
      }
      node->unpacked_list = Adopted(node, ParseExpression());
    } else if (stream_.Peek().kind == TokenKind::kName && stream_.AtOperator("=", 1)) {
      ParseNamedArgument(node);
    } else {
      if (!node->named_arguments.empty()) stream_.Fail("positional argument after a named one");
      if (node->unpacked_list != nullptr || node->unpacked_dict != nullptr) {
        stream_.Fail("positional argument after '*' or '**'");
      }
      node->arguments.push_back(Adopted(node, ParseExpression()));
    }
  }
  stream_.ExpectOperator(")");
}

ExpressionPointer ExpressionParser::ParseFilter(ExpressionPointer subject, bool with_sign) {
  if (with_sign) stream_.Take();
  ExpressionPointer node = New(ExpressionKind::kFilter, stream_.Peek().position);
  Adopt(node.get(), std::move(subject));
  node->text = stream_.ExpectName();
  while (stream_.SkipOperator(".")) node->text.append(".").append(stream_.ExpectName());
  if (stream_.AtOperator("(")) ParseArguments(node.get());
  return node;
}

ExpressionPointer ExpressionParser::ParseTest(ExpressionPointer subject) {
  const Position position = stream_.Take().position;
  const bool negated = stream_.SkipName("not");
  ExpressionPointer node = New(ExpressionKind::kTest, stream_.Peek().position);
  Adopt(node.get(), std::move(subject));
  node->text = stream_.ExpectName();
  while (stream_.SkipOperator(".")) node->text.append(".").append(stream_.ExpectName());
  const TokenKind kind = stream_.Peek().kind;
  const bool at_word = stream_.AtName("else") || stream_.AtName("or") || stream_.AtName("and");
  if (stream_.AtOperator("(")) {
    ParseArguments(node.get());
  } else if ((kind == TokenKind::kName && !at_word) || kind == TokenKind::kString ||
             kind == TokenKind::kInteger || kind == TokenKind::kFloat || stream_.AtOperator("[") ||
             stream_.AtOperator("{")) {
    if (stream_.AtName("is")) stream_.Fail("tests cannot be chained");
    node->arguments.push_back(Adopted(node.get(), ParsePostfix(ParsePrimary())));
  }
  if (!negated) return node;
  ExpressionPointer negation = New(ExpressionKind::kNot, position);
  Adopt(negation.get(), std::move(node));
  return negation;
}

}  // namespace mambad::text::jinja
