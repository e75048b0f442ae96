#include "engine/text/jinja/token_stream.h"

#include <algorithm>

#include "engine/text/jinja/message.h"
#include "engine/text/jinja/syntax.h"

namespace mambad::text::jinja {
namespace {

std::string Describe(const Token& token) {
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

}  // namespace

const Token& TokenStream::Peek(size_t ahead) const {
  if (!ok()) return tokens_.back();
  return tokens_[std::min(next_ + ahead, tokens_.size() - 1)];
}

Token TokenStream::Take() {
  Token token = Peek();
  if (next_ + 1 < tokens_.size()) ++next_;
  return token;
}

bool TokenStream::AtName(std::string_view name, size_t ahead) const {
  return Peek(ahead).kind == TokenKind::kName && Peek(ahead).text == name;
}

bool TokenStream::AtOperator(std::string_view text, size_t ahead) const {
  return Peek(ahead).kind == TokenKind::kOperator && Peek(ahead).text == text;
}

bool TokenStream::AtTagEnd() const {
  return Peek().kind == TokenKind::kVariableEnd || Peek().kind == TokenKind::kBlockEnd;
}

bool TokenStream::SkipName(std::string_view name) {
  if (!AtName(name)) return false;
  Take();
  return true;
}

bool TokenStream::SkipOperator(std::string_view text) {
  if (!AtOperator(text)) return false;
  Take();
  return true;
}

void TokenStream::ExpectOperator(std::string_view text) {
  if (!SkipOperator(text)) FailExpected(Message("'", text, "'"));
}

void TokenStream::Expect(TokenKind kind, std::string_view description) {
  if (Peek().kind == kind) {
    Take();
  } else {
    FailExpected(description);
  }
}

std::string TokenStream::ExpectName() {
  if (Peek().kind == TokenKind::kName) return Take().text;
  FailExpected("a name");
  return "";
}

void TokenStream::Fail(std::string_view what) {
  if (!ok()) return;
  status_ =
      absl::InvalidArgumentError(Message("chat template, ", ToString(Peek().position), ": ", what));
}

void TokenStream::FailExpected(std::string_view expected) {
  Fail(Message("expected ", expected, ", found ", Describe(Peek())));
}

TokenStream::Nesting::Nesting(TokenStream* stream) : stream_(stream) {
  if (++stream_->nesting_ > kMaximumSyntaxDepth) stream_->Fail("nested too deeply");
}

}  // namespace mambad::text::jinja
