#include "engine/text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "absl/status/status.h"
#include "engine/text/jinja/builtins.h"
#include "engine/text/jinja/message.h"

namespace mambad::text::jinja {
namespace {

// The first error sticks in status_; after it Peek() answers kEnd, so every loop below comes to its
// end.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<StatementList> Run() {
    StatementList statements = ParseBody({});
    if (!status_.ok()) return status_;
    return statements;
  }

 private:
  using Names = std::initializer_list<std::string_view>;

  // Bounds the parser's own recursion.
  class Nesting {
   public:
    explicit Nesting(Parser* parser) : parser_(parser) {
      if (++parser_->nesting_ > kMaximumSyntaxDepth) parser_->Fail("nested too deeply");
    }
    ~Nesting() { --parser_->nesting_; }

   private:
    Parser* parser_;
  };

  // --- Tokens and errors ---

  const Token& Peek(size_t ahead = 0) const {
    if (!status_.ok()) return tokens_.back();
    return tokens_[std::min(next_ + ahead, tokens_.size() - 1)];
  }
  Token Take() {
    Token token = Peek();
    if (next_ + 1 < tokens_.size()) ++next_;
    return token;
  }
  bool AtName(std::string_view name, size_t ahead = 0) const {
    return Peek(ahead).kind == TokenKind::kName && Peek(ahead).text == name;
  }
  bool AtOperator(std::string_view text, size_t ahead = 0) const {
    return Peek(ahead).kind == TokenKind::kOperator && Peek(ahead).text == text;
  }
  bool SkipName(std::string_view name) {
    if (!AtName(name)) return false;
    Take();
    return true;
  }
  bool SkipOperator(std::string_view text) {
    if (!AtOperator(text)) return false;
    Take();
    return true;
  }

  static std::string Describe(const Token& token) {
    switch (token.kind) {
      case TokenKind::kData:
        return "text";
      case TokenKind::kVariableBegin:
        return "'{{'";
      case TokenKind::kVariableEnd:
        return "'}}'";
      case TokenKind::kBlockBegin:
        return "'{%'";
      case TokenKind::kBlockEnd:
        return "'%}'";
      case TokenKind::kString:
        return "a string";
      case TokenKind::kInteger:
      case TokenKind::kFloat:
        return "a number";
      case TokenKind::kEnd:
        return "the end of the template";
      default:
        return Message("'", token.text, "'");
    }
  }

  void Fail(std::string_view what) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        Message("chat template, ", ToString(Peek().position), ": ", what));
  }
  void FailUnimplemented(Position position, std::string_view construct) {
    if (!status_.ok()) return;
    status_ = absl::UnimplementedError(
        Message("chat template, ", ToString(position), ": ", construct, " is not supported"));
  }
  void FailExpected(std::string_view expected) {
    Fail(Message("expected ", expected, ", found ", Describe(Peek())));
  }

  void ExpectOperator(std::string_view text) {
    if (!SkipOperator(text)) FailExpected(Message("'", text, "'"));
  }
  void Expect(TokenKind kind, std::string_view description) {
    if (Peek().kind == kind) {
      Take();
    } else {
      FailExpected(description);
    }
  }
  std::string ExpectName() {
    if (Peek().kind == TokenKind::kName) return Take().text;
    FailExpected("a name");
    return "";
  }

  // --- Statements ---

  // Until a block that starts with one of `ends` (left with its name as next token), or to the end
  // of the template.
  StatementList ParseBody(Names ends) {
    Nesting nesting(this);
    StatementList statements;
    while (Peek().kind != TokenKind::kEnd) {
      const Token token = Take();
      if (token.kind == TokenKind::kData) {
        Statement& data = Add(&statements, StatementKind::kData, token.position);
        data.text = token.text;
      } else if (token.kind == TokenKind::kVariableBegin) {
        Statement& output = Add(&statements, StatementKind::kOutput, token.position);
        output.expression = ParseTuple(true);
        Expect(TokenKind::kVariableEnd, "'}}'");
      } else {
        for (std::string_view end : ends) {
          if (AtName(end)) return statements;
        }
        ParseStatement(&statements);
        Expect(TokenKind::kBlockEnd, "'%}'");
      }
    }
    if (ends.size() > 0) FailExpected(Message("'{% ", *(ends.end() - 1), " %}'"));
    return statements;
  }

  // The body of a block: from the end of its opening tag.
  StatementList ParseBlock(Names ends) {
    SkipOperator(":");
    Expect(TokenKind::kBlockEnd, "'%}'");
    return ParseBody(ends);
  }

  static Statement& Add(StatementList* statements, StatementKind kind, Position position) {
    Statement& statement = statements->emplace_back();
    statement.kind = kind;
    statement.position = position;
    return statement;
  }

  void ParseStatement(StatementList* statements) {
    const Position position = Peek().position;
    const std::string tag = ExpectName();
    if (tag == "if") return ParseIf(Add(statements, StatementKind::kIf, position));
    if (tag == "for") return ParseFor(Add(statements, StatementKind::kFor, position));
    if (tag == "set") return ParseSet(Add(statements, StatementKind::kSet, position));
    if (tag == "macro") return ParseMacro(Add(statements, StatementKind::kMacro, position));
    if (tag == "print") {
      Add(statements, StatementKind::kOutput, position).expression = ParseTuple(true);
      return;
    }
    if (tag == "generation") {
      Scope scope(this);
      Add(statements, StatementKind::kGeneration, position).body =
          ParseOutsideLoops({"endgeneration"});
      return;
    }
    if (tag == "break" || tag == "continue") {
      if (loop_depth_ == 0) return Fail(Message("'", tag, "' outside a loop"));
      Add(statements, tag == "break" ? StatementKind::kBreak : StatementKind::kContinue, position);
      return;
    }
    for (std::string_view known : {"block", "extends", "include", "import", "from", "with",
                                   "autoescape", "call", "filter", "do", "trans", "debug"}) {
      if (tag == known) return FailUnimplemented(position, Message("tag '", tag, "'"));
    }
    Fail(Message("unknown tag '", tag, "'"));
  }

  void ParseIf(Statement& statement) {
    while (status_.ok()) {
      Branch& branch = statement.branches.emplace_back();
      branch.condition = ParseTuple(false);
      branch.body = ParseBlock({"elif", "else", "endif"});
      if (SkipName("elif")) continue;
      if (SkipName("else")) {
        Branch& otherwise = statement.branches.emplace_back();
        otherwise.body = ParseBlock({"endif"});
      }
      Take();
      return;
    }
  }

  // A macro sees the template's own variables, so it may not stand where a block has variables of
  // its own.
  struct Scope {
    explicit Scope(Parser* parser) : parser(parser) { ++parser->scope_depth_; }
    ~Scope() { --parser->scope_depth_; }
    Parser* parser;
  };

  void ParseFor(Statement& statement) {
    Scope scope(this);
    statement.target = ParseTarget(false);
    if (!SkipName("in")) return FailExpected("'in'");
    statement.expression = ParseTuple(false, "recursive");
    if (SkipName("if")) statement.condition = ParseExpression();
    if (AtName("recursive")) return FailUnimplemented(Peek().position, "a recursive loop");
    ++loop_depth_;
    statement.body = ParseBlock({"else", "endfor"});
    --loop_depth_;
    if (SkipName("else")) statement.alternative = ParseBlock({"endfor"});
    Take();
  }

  void ParseSet(Statement& statement) {
    statement.target = ParseTarget(true);
    if (SkipOperator("=")) {
      statement.expression = ParseTuple(true);
      return;
    }
    statement.kind = StatementKind::kSetBlock;
    while (AtOperator("|")) statement.expression = ParseFilter(std::move(statement.expression));
    Scope scope(this);
    statement.body = ParseOutsideLoops({"endset"});
  }

  // A body that captures text: a loop around it cannot be left from within.
  StatementList ParseOutsideLoops(Names ends) {
    const int outer_loops = std::exchange(loop_depth_, 0);
    StatementList body = ParseBlock(ends);
    loop_depth_ = outer_loops;
    Take();
    return body;
  }

  void ParseMacro(Statement& statement) {
    if (scope_depth_ > 0) {
      return FailUnimplemented(statement.position, "a macro inside a loop, macro or set block");
    }
    Scope scope(this);
    statement.text = ExpectName();
    ExpectOperator("(");
    while (status_.ok() && !AtOperator(")")) {
      if (!statement.parameters.empty()) ExpectOperator(",");
      Parameter& parameter = statement.parameters.emplace_back();
      parameter.name = ExpectName();
      if (SkipOperator("=")) {
        parameter.default_value = ParseExpression();
      } else if (statement.parameters.size() > 1 &&
                 statement.parameters[statement.parameters.size() - 2].default_value != nullptr) {
        Fail("parameter without a default after one with a default");
      }
    }
    ExpectOperator(")");
    statement.body = ParseOutsideLoops({"endmacro"});
  }

  Target ParseTarget(bool with_attribute) {
    Nesting nesting(this);
    Target first = ParseSingleTarget(with_attribute);
    if (!AtOperator(",")) return first;
    Target tuple;
    tuple.position = first.position;
    tuple.elements.push_back(std::move(first));
    while (SkipOperator(",")) {
      if (AtName("in") || AtOperator(")")) break;
      tuple.elements.push_back(ParseSingleTarget(with_attribute));
    }
    return tuple;
  }

  Target ParseSingleTarget(bool with_attribute) {
    Nesting nesting(this);
    Target target;
    target.position = Peek().position;
    if (SkipOperator("(")) {
      target = ParseTarget(false);
      ExpectOperator(")");
      return target;
    }
    target.name = ExpectName();
    for (std::string_view reserved : {"true", "false", "none", "True", "False", "None"}) {
      if (target.name == reserved) Fail(Message("cannot assign to '", reserved, "'"));
    }
    if (with_attribute && SkipOperator(".")) target.attribute = ExpectName();
    return target;
  }

  // --- Expressions, weakest binding first ---

  ExpressionPointer New(ExpressionKind kind, Position position) {
    auto expression = std::make_unique<Expression>();
    expression->kind = kind;
    expression->position = position;
    return expression;
  }

  void CoverDepth(Expression* parent, const Expression* child) {
    if (child == nullptr) return;
    parent->depth = std::max(parent->depth, child->depth + 1);
    if (parent->depth > kMaximumSyntaxDepth) Fail("expression nested too deeply");
  }

  void Adopt(Expression* parent, ExpressionPointer child) {
    CoverDepth(parent, child.get());
    parent->children.push_back(std::move(child));
  }

  ExpressionPointer NewBinary(ExpressionKind kind, Position position, ExpressionPointer left,
                              ExpressionPointer right) {
    ExpressionPointer node = New(kind, position);
    Adopt(node.get(), std::move(left));
    Adopt(node.get(), std::move(right));
    return node;
  }

  // An expression or, with commas, a tuple without parentheses.
  ExpressionPointer ParseTuple(bool with_condition, std::string_view end_name = "",
                               bool in_parentheses = false) {
    Nesting nesting(this);
    const Position position = Peek().position;
    ExpressionPointer tuple = New(ExpressionKind::kTuple, position);
    bool has_comma = false;
    while (status_.ok()) {
      if (!tuple->children.empty()) ExpectOperator(",");
      const TokenKind kind = Peek().kind;
      if (kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd || AtOperator(")") ||
          (!end_name.empty() && AtName(end_name))) {
        break;
      }
      Adopt(tuple.get(), with_condition ? ParseExpression() : ParseOr());
      if (!AtOperator(",")) break;
      has_comma = true;
    }
    if (has_comma) return tuple;
    if (!tuple->children.empty()) return std::move(tuple->children[0]);
    if (!in_parentheses) FailExpected("an expression");
    return tuple;
  }

  ExpressionPointer ParseExpression() {
    Nesting nesting(this);
    const Position position = Peek().position;
    ExpressionPointer value = ParseOr();
    while (SkipName("if")) {
      ExpressionPointer node = New(ExpressionKind::kConditional, position);
      Adopt(node.get(), std::move(value));
      Adopt(node.get(), ParseOr());
      Adopt(node.get(), SkipName("else") ? ParseExpression() : nullptr);
      value = std::move(node);
    }
    return value;
  }

  ExpressionPointer ParseOr() {
    ExpressionPointer left = ParseAnd();
    for (Position at = Peek().position; SkipName("or"); at = Peek().position) {
      left = NewBinary(ExpressionKind::kOr, at, std::move(left), ParseAnd());
    }
    return left;
  }

  ExpressionPointer ParseAnd() {
    ExpressionPointer left = ParseNot();
    for (Position at = Peek().position; SkipName("and"); at = Peek().position) {
      left = NewBinary(ExpressionKind::kAnd, at, std::move(left), ParseNot());
    }
    return left;
  }

  ExpressionPointer ParseNot() {
    Nesting nesting(this);
    const Position position = Peek().position;
    if (!SkipName("not")) return ParseCompare();
    ExpressionPointer node = New(ExpressionKind::kNot, position);
    Adopt(node.get(), ParseNot());
    return node;
  }

  // The comparison operator here, taken, or "".
  std::string TakeComparison() {
    for (std::string_view text : {"==", "!=", "<", "<=", ">", ">="}) {
      if (SkipOperator(text)) return std::string(text);
    }
    if (SkipName("in")) return "in";
    if (!AtName("not") || !AtName("in", 1)) return "";
    Take();
    Take();
    return "not in";
  }

  ExpressionPointer ParseCompare() {
    ExpressionPointer first = ParseSum();
    const Position position = Peek().position;
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

  ExpressionPointer ParseSum() {
    ExpressionPointer left = ParseConcatenation();
    while (AtOperator("+") || AtOperator("-")) {
      const Token token = Take();
      left =
          NewBinary(ExpressionKind::kBinary, token.position, std::move(left), ParseConcatenation());
      left->text = token.text;
    }
    return left;
  }

  ExpressionPointer ParseConcatenation() {
    ExpressionPointer first = ParseProduct();
    if (!AtOperator("~")) return first;
    ExpressionPointer node = New(ExpressionKind::kConcatenate, Peek().position);
    Adopt(node.get(), std::move(first));
    while (SkipOperator("~")) Adopt(node.get(), ParseProduct());
    return node;
  }

  ExpressionPointer ParseProduct() {
    ExpressionPointer left = ParseUnary(true);
    while (AtOperator("*") || AtOperator("/") || AtOperator("//") || AtOperator("%") ||
           AtOperator("**")) {
      const Token token = Take();
      if (token.text == "**") FailUnimplemented(token.position, "operator '**'");
      left = NewBinary(ExpressionKind::kBinary, token.position, std::move(left), ParseUnary(true));
      left->text = token.text;
    }
    return left;
  }

  ExpressionPointer ParseUnary(bool with_filter) {
    Nesting nesting(this);
    const Position position = Peek().position;
    ExpressionPointer node;
    if (AtOperator("-") || AtOperator("+")) {
      const bool negate = Take().text == "-";
      node = New(negate ? ExpressionKind::kNegate : ExpressionKind::kPlus, position);
      Adopt(node.get(), ParseUnary(false));
    } else {
      node = ParsePrimary();
    }
    node = ParsePostfix(std::move(node));
    while (with_filter && status_.ok()) {
      if (AtOperator("|")) {
        node = ParseFilter(std::move(node));
      } else if (AtName("is")) {
        node = ParseTest(std::move(node));
      } else if (AtOperator("(")) {
        node = ParseCall(std::move(node));
      } else {
        break;
      }
    }
    return node;
  }

  ExpressionPointer ParsePrimary() {
    const Token token = Peek();
    ExpressionPointer node = New(ExpressionKind::kConstant, token.position);
    if (token.kind == TokenKind::kName) {
      Take();
      if (token.text == "true" || token.text == "True") {
        node->constant = Value::Boolean(true);
      } else if (token.text == "false" || token.text == "False") {
        node->constant = Value::Boolean(false);
      } else if (token.text == "none" || token.text == "None") {
        node->constant = Value::None();
      } else {
        node->kind = ExpressionKind::kName;
        node->text = token.text;
      }
    } else if (token.kind == TokenKind::kString) {
      std::string text;
      while (Peek().kind == TokenKind::kString) text += Take().text;
      node->constant = Value::String(std::move(text));
    } else if (token.kind == TokenKind::kInteger) {
      node->constant = Value::Integer(Take().integer);
    } else if (token.kind == TokenKind::kFloat) {
      node->constant = Value::Float(Take().number);
    } else if (SkipOperator("(")) {
      node = ParseTuple(true, "", true);
      ExpectOperator(")");
    } else if (SkipOperator("[")) {
      node->kind = ExpressionKind::kList;
      ParseElements(node.get(), "]", false);
    } else if (SkipOperator("{")) {
      node->kind = ExpressionKind::kDict;
      ParseElements(node.get(), "}", true);
    } else {
      FailExpected("an expression");
    }
    return node;
  }

  void ParseElements(Expression* node, std::string_view closing, bool pairs) {
    while (status_.ok() && !AtOperator(closing)) {
      if (!node->children.empty()) ExpectOperator(",");
      if (AtOperator(closing)) break;
      Adopt(node, ParseExpression());
      if (!pairs) continue;
      ExpectOperator(":");
      Adopt(node, ParseExpression());
    }
    ExpectOperator(closing);
  }

  ExpressionPointer ParsePostfix(ExpressionPointer node) {
    while (status_.ok()) {
      if (AtOperator(".") || AtOperator("[")) {
        node = ParseSubscript(std::move(node));
      } else if (AtOperator("(")) {
        node = ParseCall(std::move(node));
      } else {
        break;
      }
    }
    return node;
  }

  ExpressionPointer ParseSubscript(ExpressionPointer object) {
    const Token token = Take();
    if (token.text == "[") {
      ExpressionPointer node = New(ExpressionKind::kItem, token.position);
      Adopt(node.get(), std::move(object));
      Adopt(node.get(), ParseIndex());
      if (AtOperator(",")) FailUnimplemented(Peek().position, "more than one index");
      ExpectOperator("]");
      return node;
    }
    const bool is_index = Peek().kind == TokenKind::kInteger;
    ExpressionPointer node =
        New(is_index ? ExpressionKind::kItem : ExpressionKind::kAttribute, token.position);
    Adopt(node.get(), std::move(object));
    if (is_index) {
      Adopt(node.get(), ParsePrimary());
    } else {
      node->text = ExpectName();
    }
    return node;
  }

  ExpressionPointer ParseIndex() {
    const Position position = Peek().position;
    ExpressionPointer start;
    if (!AtOperator(":")) {
      start = ParseExpression();
      if (!AtOperator(":")) return start;
    }
    ExpressionPointer slice = New(ExpressionKind::kSlice, position);
    Adopt(slice.get(), std::move(start));
    Take();
    auto parse_bound = [this]() -> ExpressionPointer {
      if (AtOperator(":") || AtOperator("]") || AtOperator(",")) return nullptr;
      return ParseExpression();
    };
    Adopt(slice.get(), parse_bound());
    Adopt(slice.get(), SkipOperator(":") ? parse_bound() : nullptr);
    return slice;
  }

  ExpressionPointer ParseCall(ExpressionPointer callee) {
    ExpressionPointer node = New(ExpressionKind::kCall, Peek().position);
    if (callee != nullptr && callee->kind == ExpressionKind::kName) {
      for (std::string_view name : {"cycler", "joiner", "lipsum", "caller", "super"}) {
        if (callee->text == name) {
          FailUnimplemented(callee->position, Message("function '", name, "'"));
        }
      }
    }
    Adopt(node.get(), std::move(callee));
    ParseArguments(node.get());
    return node;
  }

  void ParseArguments(Expression* node) {
    Nesting nesting(this);
    ExpectOperator("(");
    bool first = true;
    while (status_.ok() && !AtOperator(")")) {
      if (!std::exchange(first, false)) ExpectOperator(",");
      if (AtOperator(")")) break;
      if (AtOperator("*") || AtOperator("**")) {
        return FailUnimplemented(Peek().position, "unpacking of arguments");
      }
      if (Peek().kind == TokenKind::kName && AtOperator("=", 1)) {
        std::string name = Take().text;
        Take();
        ExpressionPointer value = ParseExpression();
        CoverDepth(node, value.get());
        for (const auto& [earlier, unused] : node->named_arguments) {
          if (earlier == name) Fail(Message("argument '", name, "' is given twice"));
        }
        // Names are compared pairwise above, so their number is bounded.
        if (node->named_arguments.size() >= 64) Fail("more than 64 named arguments");
        node->named_arguments.emplace_back(std::move(name), std::move(value));
      } else {
        if (!node->named_arguments.empty()) Fail("positional argument after a named one");
        ExpressionPointer value = ParseExpression();
        CoverDepth(node, value.get());
        node->arguments.push_back(std::move(value));
      }
    }
    ExpectOperator(")");
  }

  ExpressionPointer ParseFilter(ExpressionPointer subject) {
    Take();
    ExpressionPointer node = New(ExpressionKind::kFilter, Peek().position);
    Adopt(node.get(), std::move(subject));
    node->text = ExpectName();
    if (status_.ok() && !IsKnownFilter(node->text)) {
      FailUnimplemented(node->position, Message("filter '", node->text, "'"));
    }
    if (AtOperator("(")) ParseArguments(node.get());
    return node;
  }

  ExpressionPointer ParseTest(ExpressionPointer subject) {
    const Position position = Take().position;
    const bool negated = SkipName("not");
    ExpressionPointer node = New(ExpressionKind::kTest, Peek().position);
    Adopt(node.get(), std::move(subject));
    node->text = ExpectName();
    if (status_.ok() && !IsKnownTest(node->text)) {
      FailUnimplemented(node->position, Message("test '", node->text, "'"));
    }
    const TokenKind kind = Peek().kind;
    if (AtOperator("(")) {
      ParseArguments(node.get());
    } else if ((kind == TokenKind::kName && !AtName("else") && !AtName("or") && !AtName("and")) ||
               kind == TokenKind::kString || kind == TokenKind::kInteger ||
               kind == TokenKind::kFloat || AtOperator("[") || AtOperator("{")) {
      if (AtName("is")) Fail("tests cannot be chained");
      node->arguments.push_back(ParsePostfix(ParsePrimary()));
      CoverDepth(node.get(), node->arguments.back().get());
    }
    if (!negated) return node;
    ExpressionPointer negation = New(ExpressionKind::kNot, position);
    Adopt(negation.get(), std::move(node));
    return negation;
  }

  std::vector<Token> tokens_;
  size_t next_ = 0;
  absl::Status status_;
  int nesting_ = 0;
  int loop_depth_ = 0;
  int scope_depth_ = 0;
};

}  // namespace

absl::StatusOr<StatementList> ParseTemplate(std::string_view source) {
  if (source.size() > kMaximumSourceBytes) {
    return absl::InvalidArgumentError(Message("chat template: ", source.size(),
                                              " bytes, more than the ", kMaximumSourceBytes,
                                              " that are allowed"));
  }
  absl::StatusOr<std::vector<Token>> tokens = Tokenize(source);
  if (!tokens.ok()) return tokens.status();
  return Parser(std::move(*tokens)).Run();
}

}  // namespace mambad::text::jinja
