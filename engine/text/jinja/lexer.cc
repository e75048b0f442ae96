#include "engine/text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/unicode.h"

namespace mambad::text::jinja {
namespace {

constexpr size_t kNotFound = std::string_view::npos;

// Longest first, so that the first match is the right one.
constexpr std::array<std::string_view, 26> kOperators = {
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

// Line ends become "\n"; one at the very end goes (keep_trailing_newline is off).
std::string NormalizeLines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text.push_back(source[i]);
      continue;
    }
    text.push_back('\n');
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

// Names may have letters of any script.
bool IsNameStart(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return absl::ascii_isalpha(byte) || c == '_' || byte >= 0x80;
}
bool IsDigit(char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); }
bool IsNamePart(char c) { return IsNameStart(c) || IsDigit(c); }

int DigitValue(char c) {
  if (IsDigit(c)) return c - '0';
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : 99;
}

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (status_.ok() && position_ < text_.size()) LexData();
    Add(TokenKind::kEnd, position_);
    if (!status_.ok()) return status_;
    return std::move(tokens_);
  }

 private:
  enum class Opening { kNone, kVariable, kBlock, kComment, kRaw };

  // --- Positions and errors ---

  // Offsets are asked for in rising order, so all calls together read the text once.
  Position PositionOf(size_t offset) {
    for (; counted_ < offset; ++counted_) {
      if (text_[counted_] == '\n') {
        ++counted_position_.line;
        counted_position_.column = 1;
      } else {
        ++counted_position_.column;
      }
    }
    return counted_position_;
  }

  void Fail(size_t offset, std::string_view what) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        Message("chat template, ", ToString(PositionOf(offset)), ": ", what));
  }

  Token& Add(TokenKind kind, size_t offset) {
    Token& token = tokens_.emplace_back();
    token.kind = kind;
    token.position = PositionOf(offset);
    return token;
  }

  bool At(size_t offset, std::string_view expected) const {
    return text_.substr(std::min(offset, text_.size())).substr(0, expected.size()) == expected;
  }

  size_t SkipSpace(size_t offset) const {
    return offset + LeadingSpaceBytes(text_.substr(std::min(offset, text_.size())));
  }

  // Moves to `end`; lstrip_blocks needs to know whether the next text starts a line.
  void Advance(size_t end) {
    if (end > position_) line_starting_ = text_[end - 1] == '\n';
    position_ = end;
  }

  // --- Text outside tags ---

  // End of the raw marker that starts at `offset` ("{% raw %}"), or npos when there is none.
  size_t RawBeginEnd(size_t offset) const {
    size_t at = offset + 2;
    if (At(at, "-") || At(at, "+")) ++at;
    at = SkipSpace(at);
    if (!At(at, "raw")) return kNotFound;
    at = SkipSpace(at + 3);
    if (At(at, "-%}")) return SkipSpace(at + 3);
    return At(at, "%}") ? at + 2 : kNotFound;
  }

  Opening OpeningAt(size_t offset) const {
    if (At(offset, "{%")) {
      return RawBeginEnd(offset) != kNotFound ? Opening::kRaw : Opening::kBlock;
    }
    if (At(offset, "{{")) return Opening::kVariable;
    return At(offset, "{#") ? Opening::kComment : Opening::kNone;
  }

  // Adds the text before a tag, less the whitespace that the tag's sign or lstrip_blocks takes.
  void AddData(size_t start, size_t end, char sign, bool is_variable) {
    std::string_view data = text_.substr(start, end - start);
    if (sign == '-') {
      data.remove_suffix(TrailingSpaceBytes(data));
    } else if (sign != '+' && !is_variable) {
      const size_t line = data.rfind('\n') + 1;  // npos + 1 == 0
      if ((line > 0 || line_starting_) &&
          LeadingSpaceBytes(data.substr(line)) == data.size() - line) {
        data = data.substr(0, line);
      }
    }
    if (!data.empty()) Add(TokenKind::kData, start).text = std::string(data);
  }

  char SignAt(size_t offset) const { return At(offset, "-") ? '-' : At(offset, "+") ? '+' : '\0'; }

  void LexData() {
    size_t tag = position_;
    Opening opening = Opening::kNone;
    while (true) {
      tag = text_.find('{', tag);
      if (tag == kNotFound) break;
      opening = OpeningAt(tag);
      if (opening != Opening::kNone) break;
      ++tag;
    }
    if (tag == kNotFound) {
      Add(TokenKind::kData, position_).text = std::string(text_.substr(position_));
      Advance(text_.size());
      return;
    }
    const char sign = SignAt(tag + 2);
    AddData(position_, tag, sign, opening == Opening::kVariable);
    if (opening == Opening::kRaw) return LexRaw(tag);
    Advance(tag + (sign == '\0' ? 2 : 3));
    if (opening == Opening::kComment) return LexComment(tag);
    LexTag(tag, opening == Opening::kBlock);
  }

  void LexComment(size_t tag) {
    const size_t end = text_.find("#}", position_);
    if (end == kNotFound) return MissingEnd(tag, "missing end of comment");
    const char sign = end > position_ ? text_[end - 1] : '\0';
    Advance(AfterBlock(end + 2, sign));
  }

  // Where the text goes on after a block or comment end: "-" takes all whitespace, trim_blocks one
  // newline.
  size_t AfterBlock(size_t end, char sign) const {
    if (sign == '-') return SkipSpace(end);
    return sign != '+' && At(end, "\n") ? end + 1 : end;
  }

  // What opens at the very end of the source is as good as closed there.
  void MissingEnd(size_t tag, std::string_view what) {
    if (position_ < text_.size()) return Fail(tag, what);
  }

  void LexRaw(size_t tag) {
    Advance(RawBeginEnd(tag));
    const size_t start = position_;
    for (size_t at = text_.find("{%", start); at != kNotFound; at = text_.find("{%", at + 1)) {
      const char sign = SignAt(at + 2);
      size_t end = SkipSpace(at + (sign == '\0' ? 2 : 3));
      if (!At(end, "endraw")) continue;
      end = SkipSpace(end + 6);
      const char end_sign = SignAt(end);
      if (end_sign != '\0') ++end;
      if (!At(end, "%}")) continue;
      AddData(start, at, sign, false);
      return Advance(AfterBlock(end + 2, end_sign));
    }
    MissingEnd(tag, "missing end of raw block");
  }

  // --- Inside tags ---

  // True when the tag ended here.
  bool LexTagEnd(bool is_block) {
    if (!open_brackets_.empty()) return false;
    const std::string_view closing = is_block ? "%}" : "}}";
    char sign = SignAt(position_);
    if (sign == '+' && !is_block) sign = '\0';
    const size_t end = position_ + (sign == '\0' ? 0 : 1);
    if (!At(end, closing)) return false;
    Add(is_block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, position_);
    if (is_block) {
      Advance(AfterBlock(end + 2, sign));
    } else {
      Advance(sign == '-' ? SkipSpace(end + 2) : end + 2);
    }
    return true;
  }

  void LexTag(size_t tag, bool is_block) {
    Add(is_block ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, tag);
    open_brackets_.clear();
    while (status_.ok()) {
      if (position_ >= text_.size()) return Fail(tag, "missing end of tag");
      if (LexTagEnd(is_block)) return;
      const size_t after_space = SkipSpace(position_);
      if (after_space > position_) {
        Advance(after_space);
        continue;
      }
      const char c = text_[position_];
      if (IsNameStart(c)) {
        LexName();
      } else if (IsDigit(c)) {
        LexNumber();
      } else if (c == '\'' || c == '"') {
        LexString(c);
      } else {
        LexOperator();
      }
    }
  }

  void LexName() {
    size_t end = position_;
    while (end < text_.size() && IsNamePart(text_[end])) ++end;
    Add(TokenKind::kName, position_).text = std::string(text_.substr(position_, end - position_));
    Advance(end);
  }

  // Digits with single underscores between them; returns the end, or `at` when no digit is there.
  size_t DigitsEnd(size_t at, int base, bool leading_underscore) const {
    size_t end = at;
    while (end < text_.size()) {
      size_t next = end;
      if (text_[next] == '_' && (end > at || leading_underscore)) ++next;
      if (next >= text_.size() || DigitValue(text_[next]) >= base) break;
      end = next + 1;
    }
    return end;
  }

  // End of the floating-point literal at the position, or npos when it is none.
  size_t FloatEnd() const {
    if (position_ > 0 && text_[position_ - 1] == '.') return kNotFound;
    size_t end = DigitsEnd(position_, 10, false);
    bool is_float = false;
    if (At(end, ".")) {
      const size_t fraction = DigitsEnd(end + 1, 10, false);
      if (fraction > end + 1) {
        end = fraction;
        is_float = true;
      }
    }
    if (At(end, "e") || At(end, "E")) {
      const size_t digits = end + (SignAt(end + 1) == '\0' ? 1 : 2);
      const size_t exponent = DigitsEnd(digits, 10, false);
      if (exponent > digits) return exponent;
    }
    return is_float ? end : kNotFound;
  }

  std::string WithoutUnderscores(size_t start, size_t end) const {
    std::string digits(text_.substr(start, end - start));
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    return digits;
  }

  void LexNumber() {
    const size_t start = position_;
    if (const size_t end = FloatEnd(); end != kNotFound) {
      const std::string digits = WithoutUnderscores(start, end);
      Token& token = Add(TokenKind::kFloat, start);
      const auto result =
          std::from_chars(digits.data(), digits.data() + digits.size(), token.number);
      // Python's infinity or zero.
      if (result.ec != std::errc()) token.number = std::strtod(digits.c_str(), nullptr);
      return Advance(end);
    }
    int base = 10;
    size_t digits_start = start;
    if (text_[start] == '0' && start + 1 < text_.size()) {
      const char marker = absl::ascii_tolower(static_cast<unsigned char>(text_[start + 1]));
      const int marked = marker == 'x' ? 16 : marker == 'o' ? 8 : marker == 'b' ? 2 : 10;
      if (marked != 10 && DigitsEnd(start + 2, marked, true) > start + 2) {
        base = marked;
        digits_start = start + 2;
      }
    }
    size_t end = DigitsEnd(digits_start, base, base != 10);
    // A zero that is not a number of its own stands alone: "012" is 0 followed by 12.
    if (base == 10 && text_[start] == '0') {
      end = start + 1;
      while (At(end, "0") || At(end, "_0")) end += text_[end] == '_' ? 2 : 1;
    }
    const std::string digits = WithoutUnderscores(digits_start, end);
    Token& token = Add(TokenKind::kInteger, start);
    const auto result =
        std::from_chars(digits.data(), digits.data() + digits.size(), token.integer, base);
    if (result.ec != std::errc()) token.unsupported = "an integer beyond 64 bits";
    Advance(end);
  }

  void LexOperator() {
    for (std::string_view candidate : kOperators) {
      if (!At(position_, candidate)) continue;
      if (!Balance(candidate[0])) return;
      Add(TokenKind::kOperator, position_).text = std::string(candidate);
      return Advance(position_ + candidate.size());
    }
    Fail(position_, "unexpected character in tag");
  }

  bool Balance(char c) {
    if (c == '(' || c == '[' || c == '{') {
      open_brackets_.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
      if (open_brackets_.empty() || open_brackets_.back() != c) {
        const std::string expected =
            open_brackets_.empty()
                ? ""
                : Message(", expected '", open_brackets_.substr(open_brackets_.size() - 1), "'");
        Fail(position_, Message("unexpected '", std::string(1, c), "'", expected));
        return false;
      }
      open_brackets_.pop_back();
    }
    return true;
  }

  // --- Strings ---

  void LexString(char quote) {
    size_t end = position_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) return Fail(position_, "missing end of string");
    Token& token = Add(TokenKind::kString, position_);
    Unescape(position_ + 1, end, &token);
    Advance(end + 1);
  }

  // Python's escapes. An unknown one keeps its backslash.
  void Unescape(size_t at, size_t end, Token* token) {
    std::string* const value = &token->text;
    static constexpr std::string_view kPlain = "abfnrtv\\'\"";
    static constexpr std::string_view kMeaning = "\a\b\f\n\r\t\v\\'\"";
    while (at < end && status_.ok()) {
      if (text_[at] != '\\') {
        value->push_back(text_[at++]);
        continue;
      }
      const char c = text_[at + 1];
      const size_t plain = kPlain.find(c);
      if (c == '\n') {
        at += 2;
      } else if (plain != kNotFound) {
        value->push_back(kMeaning[plain]);
        at += 2;
      } else if (c == 'x' || c == 'u' || c == 'U') {
        at = UnescapeHexadecimal(at, end, c == 'x' ? 2 : c == 'u' ? 4 : 8, value);
      } else if (DigitValue(c) < 8) {
        uint32_t code_point = 0;
        size_t digit = at + 1;
        for (; digit < std::min(end, at + 4) && DigitValue(text_[digit]) < 8; ++digit) {
          code_point = code_point * 8 + DigitValue(text_[digit]);
        }
        AppendUtf8(code_point, value);
        at = digit;
      } else if (c == 'N') {
        token->unsupported = "the escape \\N in a string";
        return;
      } else if (static_cast<unsigned char>(c) >= 0x80) {
        at = UnescapeNonAscii(at, value);
      } else {
        value->append(text_.substr(at, 2));
        at += 2;
      }
    }
  }

  size_t UnescapeHexadecimal(size_t at, size_t end, size_t digits, std::string* value) {
    uint64_t code_point = 0;
    for (size_t i = at + 2; i < at + 2 + digits; ++i) {
      if (i >= end || DigitValue(text_[i]) >= 16) {
        Fail(at, "truncated escape in a string");
        return end;
      }
      code_point = code_point * 16 + DigitValue(text_[i]);
    }
    if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF)) {
      Fail(at, "escape in a string is no Unicode character");
      return end;
    }
    AppendUtf8(static_cast<uint32_t>(code_point), value);
    return at + 2 + digits;
  }

  // The reference turns other characters into escapes before it reads escapes, so a backslash
  // before one of them protects that escape: it comes out spelled as its number.
  size_t UnescapeNonAscii(size_t at, std::string* value) {
    const uint32_t code_point = CodePointAt(text_, at + 1);
    AppendEscape(code_point, value);
    return at + 1 + CharacterBytes(text_, at + 1);
  }

  const std::string_view text_;
  std::vector<Token> tokens_;
  absl::Status status_;
  size_t position_ = 0;
  bool line_starting_ = true;
  std::string open_brackets_;  // the closing brackets still owed
  size_t counted_ = 0;
  Position counted_position_;
};

}  // namespace

std::string ToString(Position position) {
  return Message("line ", position.line, ", column ", position.column);
}

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  const std::string text = NormalizeLines(source);
  return Lexer(text).Run();
}

}  // namespace mambad::text::jinja
