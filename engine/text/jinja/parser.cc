#include "engine/text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/status/status.h"
#include "engine/text/jinja/expression_parser.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/token_stream.h"

namespace mambad::text::jinja {
namespace {

using Names = std::initializer_list<std::string_view>;
using Nesting = TokenStream::Nesting;

bool IsAmong(std::string_view name, Names names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Reads statements; their expressions are the ExpressionParser's.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : stream_(std::move(tokens)), expressions_(&stream_) {}

  absl::StatusOr<StatementList> Run() {
    StatementList statements = ParseBody({});
    if (!stream_.ok()) return stream_.status();
    return statements;
  }

 private:
  // Until a block that starts with one of `ends` (left with its name as next token), or to the end
  // of the template.
  StatementList ParseBody(Names ends) {
    Nesting nesting(&stream_);
    StatementList statements;
    while (stream_.Peek().kind != TokenKind::kEnd) {
      const Token token = stream_.Take();
      if (token.kind == TokenKind::kData) {
        Add(&statements, StatementKind::kData, token.position).text = token.text;
      } else if (token.kind == TokenKind::kVariableBegin) {
        Statement& output = Add(&statements, StatementKind::kOutput, token.position);
        output.expression = expressions_.ParseTuple(true);
        stream_.Expect(TokenKind::kVariableEnd, "'}}'");
      } else {
        for (std::string_view end : ends) {
          if (stream_.AtName(end)) return statements;
        }
        ParseStatement(&statements);
        stream_.Expect(TokenKind::kBlockEnd, "'%}'");
      }
    }
    if (ends.size() > 0) stream_.FailExpected(Message("'{% ", *(ends.end() - 1), " %}'"));
    return statements;
  }

  // The body of a block: from the end of its opening tag.
  StatementList ParseBlock(Names ends) {
    stream_.SkipOperator(":");
    stream_.Expect(TokenKind::kBlockEnd, "'%}'");
    return ParseBody(ends);
  }

  // A body that captures text: a loop around it cannot be left from within.
  StatementList ParseOutsideLoops(Names ends) {
    const int outer_loops = std::exchange(loop_depth_, 0);
    StatementList body = ParseBlock(ends);
    loop_depth_ = outer_loops;
    stream_.Take();
    return body;
  }

  static Statement& Add(StatementList* statements, StatementKind kind, Position position) {
    Statement& statement = statements->emplace_back();
    statement.kind = kind;
    statement.position = position;
    return statement;
  }

  void ParseStatement(StatementList* statements) {
    const Position position = stream_.Peek().position;
    const std::string tag = stream_.ExpectName();
    if (tag == "print") return ParsePrint(statements, position);
    if (tag == "break" || tag == "continue") {
      if (loop_depth_ == 0) return stream_.Fail(Message("'", tag, "' outside a loop"));
      Add(statements, tag == "break" ? StatementKind::kBreak : StatementKind::kContinue, position);
      return;
    }
    struct Tag {
      std::string_view name;
      StatementKind kind;
      void (Parser::*parse)(Statement&);
    };
    static constexpr Tag kTags[] = {
        {"if", StatementKind::kIf, &Parser::ParseIf},
        {"for", StatementKind::kFor, &Parser::ParseFor},
        {"set", StatementKind::kSet, &Parser::ParseSet},
        {"macro", StatementKind::kMacro, &Parser::ParseMacro},
        {"call", StatementKind::kCallBlock, &Parser::ParseCallBlock},
        {"filter", StatementKind::kFilterBlock, &Parser::ParseFilterBlock},
        {"with", StatementKind::kWith, &Parser::ParseWith},
        {"block", StatementKind::kBlock, &Parser::ParseTemplateBlock},
        {"autoescape", StatementKind::kAutoescape, &Parser::ParseAutoescape},
        {"generation", StatementKind::kGeneration, &Parser::ParseGeneration},
    };
    for (const Tag& known : kTags) {
      if (tag == known.name) return (this->*known.parse)(Add(statements, known.kind, position));
    }
    if (tag.starts_with("end") || IsAmong(tag, {"else", "elif"})) {
      return stream_.Fail(Message("unexpected tag '", tag, "'"));
    }
    SkipUnknown(Add(statements, StatementKind::kUnsupported, position), tag);
  }

  // A tag of which nothing is known: its words are passed over, and reaching it is an error.
  void SkipUnknown(Statement& statement, const std::string& tag) {
    statement.text = Message("tag '", tag, "'");
    while (!stream_.AtTagEnd() && stream_.Peek().kind != TokenKind::kEnd) stream_.Take();
  }

  void ParsePrint(StatementList* statements, Position position) {
    for (bool first = true; stream_.ok() && !stream_.AtTagEnd(); first = false) {
      if (!first) stream_.ExpectOperator(",");
      Add(statements, StatementKind::kOutput, position).expression = expressions_.ParseExpression();
    }
  }

  void ParseIf(Statement& statement) {
    while (stream_.ok()) {
      Branch& branch = statement.branches.emplace_back();
      branch.condition = expressions_.ParseTuple(false);
      branch.body = ParseBlock({"elif", "else", "endif"});
      if (stream_.SkipName("elif")) continue;
      if (stream_.SkipName("else")) {
        Branch& otherwise = statement.branches.emplace_back();
        otherwise.body = ParseBlock({"endif"});
      }
      stream_.Take();
      return;
    }
  }

  void ParseFor(Statement& statement) {
    statement.target = ParseTarget(false);
    if (!stream_.SkipName("in")) return stream_.FailExpected("'in'");
    statement.expression = expressions_.ParseTuple(false, "recursive");
    if (stream_.SkipName("if")) statement.condition = expressions_.ParseExpression();
    statement.is_recursive = stream_.SkipName("recursive");
    ++loop_depth_;
    statement.body = ParseBlock({"else", "endfor"});
    --loop_depth_;
    if (stream_.SkipName("else")) statement.alternative = ParseBlock({"endfor"});
    stream_.Take();
  }

  void ParseSet(Statement& statement) {
    statement.target = ParseTarget(true);
    if (stream_.SkipOperator("=")) {
      statement.expression = expressions_.ParseTuple(true);
      return;
    }
    statement.kind = StatementKind::kSetBlock;
    while (stream_.AtOperator("|")) {
      statement.expression = expressions_.ParseFilter(std::move(statement.expression));
    }
    statement.body = ParseOutsideLoops({"endset"});
  }

  void ParseParameters(Statement& statement) {
    stream_.ExpectOperator("(");
    while (stream_.ok() && !stream_.AtOperator(")")) {
      if (!statement.parameters.empty()) stream_.ExpectOperator(",");
      Parameter& parameter = statement.parameters.emplace_back();
      parameter.name = stream_.ExpectName();
      if (stream_.SkipOperator("=")) {
        parameter.default_value = expressions_.ParseExpression();
      } else if (statement.parameters.size() > 1 &&
                 statement.parameters[statement.parameters.size() - 2].default_value != nullptr) {
        stream_.Fail("parameter without a default after one with a default");
      }
    }
    stream_.ExpectOperator(")");
  }

  // The body of a macro, with what it reads of the variables that every macro has.
  void ParseMacroBody(Statement& statement, std::string_view end) {
    MacroNames outer = std::exchange(expressions_.names_read, MacroNames());
    statement.body = ParseOutsideLoops({end});
    const MacroNames& read = expressions_.names_read;
    statement.uses_caller = read.caller;
    statement.uses_varargs = read.varargs;
    statement.uses_kwargs = read.kwargs;
    outer.caller |= read.caller;
    outer.varargs |= read.varargs;
    outer.kwargs |= read.kwargs;
    expressions_.names_read = outer;
  }

  void ParseMacro(Statement& statement) {
    statement.text = stream_.ExpectName();
    ParseParameters(statement);
    ParseMacroBody(statement, "endmacro");
  }

  void ParseCallBlock(Statement& statement) {
    statement.text = "caller";
    if (stream_.AtOperator("(")) ParseParameters(statement);
    statement.expression = expressions_.ParseExpression();
    if (!stream_.ok()) return;
    if (statement.expression->kind != ExpressionKind::kCall) {
      return stream_.Fail("expected a call in 'call'");
    }
    ParseMacroBody(statement, "endcall");
  }

  void ParseFilterBlock(Statement& statement) {
    statement.expression = expressions_.ParseFilter(nullptr, /*with_sign=*/false);
    while (stream_.AtOperator("|")) {
      statement.expression = expressions_.ParseFilter(std::move(statement.expression));
    }
    statement.body = ParseOutsideLoops({"endfilter"});
  }

  void ParseWith(Statement& statement) {
    while (stream_.ok() && !stream_.AtTagEnd() && !stream_.AtOperator(":")) {
      if (!statement.assignments.empty()) stream_.ExpectOperator(",");
      Assignment& assignment = statement.assignments.emplace_back();
      assignment.target = ParseTarget(false);
      stream_.ExpectOperator("=");
      assignment.value = expressions_.ParseExpression();
    }
    statement.body = ParseBlock({"endwith"});
    stream_.Take();
  }

  void ParseTemplateBlock(Statement& statement) {
    statement.text = stream_.ExpectName();
    stream_.SkipName("scoped");
    stream_.SkipName("required");
    statement.body = ParseOutsideLoops({"endblock"});
    stream_.SkipName(statement.text);
  }

  void ParseAutoescape(Statement& statement) {
    statement.expression = expressions_.ParseExpression();
    statement.body = ParseBlock({"endautoescape"});
    stream_.Take();
  }

  void ParseGeneration(Statement& statement) {
    statement.body = ParseOutsideLoops({"endgeneration"});
  }

  Target ParseTarget(bool with_attribute) {
    Nesting nesting(&stream_);
    Target first = ParseSingleTarget(with_attribute);
    if (!stream_.AtOperator(",")) return first;
    Target tuple;
    tuple.position = first.position;
    tuple.elements.push_back(std::move(first));
    while (stream_.SkipOperator(",")) {
      if (stream_.AtName("in") || stream_.AtOperator(")") || stream_.AtOperator("=")) break;
      tuple.elements.push_back(ParseSingleTarget(with_attribute));
    }
    return tuple;
  }

  Target ParseSingleTarget(bool with_attribute) {
    Nesting nesting(&stream_);
    Target target;
    target.position = stream_.Peek().position;
    if (stream_.SkipOperator("(")) {
      target = ParseTarget(false);
      stream_.ExpectOperator(")");
      return target;
    }
    target.name = stream_.ExpectName();
    if (IsAmong(target.name, {"true", "false", "none", "True", "False", "None"})) {
      stream_.Fail(Message("cannot assign to '", target.name, "'"));
    }
    if (with_attribute && stream_.SkipOperator(".")) target.attribute = stream_.ExpectName();
    return target;
  }

  TokenStream stream_;
  ExpressionParser expressions_;
  int loop_depth_ = 0;
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
