#ifndef MAMBAD_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_
#define MAMBAD_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/text/jinja/lexer.h"

namespace mambad::text::jinja {

// The tokens of a template as its parser reads them. The first error sticks; after it Peek()
// answers kEnd, so every loop of the parser comes to its end.
class TokenStream {
 public:
  // `tokens` ends with kEnd.
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

  const Token& Peek(size_t ahead = 0) const;
  Token Take();
  bool AtName(std::string_view name, size_t ahead = 0) const;
  bool AtOperator(std::string_view text, size_t ahead = 0) const;
  bool AtTagEnd() const;  // "}}" or "%}"
  // Each takes the token when it is next.
  bool SkipName(std::string_view name);
  bool SkipOperator(std::string_view text);

  // Each takes the token, or fails.
  void ExpectOperator(std::string_view text);
  void Expect(TokenKind kind, std::string_view description);
  std::string ExpectName();

  // INVALID_ARGUMENT at the next token.
  void Fail(std::string_view what);
  void FailExpected(std::string_view expected);

  // Bounds the parser's own recursion, while it lives.
  class Nesting {
   public:
    explicit Nesting(TokenStream* stream);
    ~Nesting() { --stream_->nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    TokenStream* stream_;
  };

 private:
  std::vector<Token> tokens_;
  size_t next_ = 0;
  absl::Status status_;
  int nesting_ = 0;
};

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_
