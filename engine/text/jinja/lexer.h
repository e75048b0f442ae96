#ifndef MAMBAD_ENGINE_TEXT_JINJA_LEXER_H_
#define MAMBAD_ENGINE_TEXT_JINJA_LEXER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace mambad::text::jinja {

// Where something stands in the template, counted from 1 after line ends became "\n"; columns are
// bytes.
struct Position {
  uint32_t line = 1;
  uint32_t column = 1;
};

// "line 3, column 7"
std::string ToString(Position position);

enum class TokenKind {
  kData,           // text between tags, whitespace control already applied
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kName,
  kString,    // text holds the unescaped value
  kInteger,   // integer holds the value
  kFloat,     // number holds the value
  kOperator,  // text holds the operator
  kEnd,       // one, always last
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  Position position;
  std::string text;
  int64_t integer = 0;
  double number = 0;
  std::string unsupported;  // of a literal that we cannot hold: what it is
};

// The tokens of a template, with the whitespace rules that chat templates are written for:
// trim_blocks and lstrip_blocks on, one trailing newline of the source removed, "-" and "+" markers
// honoured. Comments and raw markers are gone from the result; raw text is kData. INVALID_ARGUMENT
// with line and column for text that is not a template.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_LEXER_H_
