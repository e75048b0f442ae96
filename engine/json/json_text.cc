#include "engine/json/json_text.h"

#include <charconv>
#include <cstdint>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace mambad {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 64;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

void AppendUtf8(uint32_t code, std::string* out) {
  const auto put = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xC0 | code >> 6);
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
  }
  put(0x80 | (code & 0x3F));
}

// Bytes of the valid character at the beginning of `text`; 0: there is none.
size_t CharacterLength(std::string_view text) {
  const auto byte = [&](size_t at) {
    return at < text.size() ? static_cast<uint8_t>(text[at]) : uint8_t{0};
  };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool shorter = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xF0 && byte(1) < 0x90);
  const bool outside = (lead == 0xED && byte(1) > 0x9F) || (lead == 0xF4 && byte(1) > 0x8F);
  return shorter || outside ? 0 : length;
}

class Parser {
 public:
  Parser(std::string_view text, RepeatedKeys repeated_keys)
      : text_(text), repeated_keys_(repeated_keys) {}

  // False: error() says why.
  bool Parse(Json* value) {
    constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
    if (text_.substr(0, 3) == kByteOrderMark) at_ = 3;
    if (!Value(value)) return false;
    SkipSpace();
    return at_ == text_.size() || Fail("the end");
  }

  std::string error() const {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < std::min(error_at_, text_.size()); ++i) {
      const auto byte = static_cast<uint8_t>(text_[i]);
      if (byte == '\n') {
        ++line;
        column = 1;
      } else if ((byte & 0xC0) != 0x80) {
        ++column;
      }
    }
    const size_t length = error_at_ < text_.size()
                              ? std::max<size_t>(1, CharacterLength(text_.substr(error_at_)))
                              : 0;
    const std::string_view found = text_.substr(std::min(error_at_, text_.size()), length);
    return absl::StrCat(
        "line ", line, ", column ", column, ": expected ", expected_, ", found ",
        length == 0 ? "the end"
                    : absl::StrCat("\"", absl::Utf8SafeCHexEscape(std::string(found)), "\""));
  }

 private:
  bool Fail(std::string expected) {
    if (expected_.empty()) {
      expected_ = std::move(expected);
      error_at_ = at_;
    }
    return false;
  }
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void SkipSpace() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }
  bool TakeWord(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  bool Value(Json* value) {
    SkipSpace();
    const char c = Peek();
    if (c == '{' || c == '[') {
      if (++depth_ > kMaxDepth) return Fail(absl::StrCat("at most ", kMaxDepth, " levels"));
      const bool good = c == '{' ? Object(value) : Array(value);
      --depth_;
      return good;
    }
    if (c == '"') {
      *value = std::string();
      return String(value->get_ptr<std::string*>());
    }
    if (c == '-' || IsDigit(c)) return Number(value);
    if (TakeWord("true")) {
      *value = true;
    } else if (TakeWord("false")) {
      *value = false;
    } else if (TakeWord("null") || TakeWord("NaN")) {
      *value = nullptr;
    } else if (TakeWord("Infinity")) {
      *value = kInfinity;
    } else {
      return Fail("a value");
    }
    return true;
  }

  bool Object(Json* value) {
    ++at_;
    *value = Json::object();
    auto& members = value->get_ref<Json::object_t&>();
    SkipSpace();
    if (Peek() == '}') {
      ++at_;
      return true;
    }
    for (;;) {
      SkipSpace();
      if (Peek() != '"') return Fail("a key in quotes");
      const size_t key_at = at_;
      std::string key;
      if (!String(&key)) return false;
      if (repeated_keys_ == RepeatedKeys::kRefused && members.find(key) != members.end()) {
        at_ = key_at;
        return Fail(absl::StrCat("the key \"", absl::Utf8SafeCHexEscape(key.substr(0, 120)),
                                 "\" once (it stands twice)"));
      }
      SkipSpace();
      if (Peek() != ':') return Fail("':' behind a key");
      ++at_;
      if (!Value(&members[std::move(key)])) return false;
      SkipSpace();
      if (Peek() == '}') break;
      if (Peek() != ',') return Fail("',' or '}'");
      ++at_;
    }
    ++at_;
    RestoreFloat(value);
    return true;
  }

  // {"__float__": "Infinity"}
  static void RestoreFloat(Json* value) {
    if (value->size() != 1) return;
    const auto member = value->find("__float__");
    if (member == value->end() || !member->is_string()) return;
    const std::string name = member->get<std::string>();
    if (name == "Infinity") *value = kInfinity;
    if (name == "-Infinity") *value = -kInfinity;
    if (name == "NaN") *value = nullptr;
  }

  bool Array(Json* value) {
    ++at_;
    *value = Json::array();
    auto& elements = value->get_ref<Json::array_t&>();
    SkipSpace();
    if (Peek() == ']') {
      ++at_;
      return true;
    }
    for (;;) {
      if (!Value(&elements.emplace_back())) return false;
      SkipSpace();
      if (Peek() == ']') break;
      if (Peek() != ',') return Fail("',' or ']'");
      ++at_;
    }
    ++at_;
    return true;
  }

  bool String(std::string* out) {
    ++at_;
    for (;;) {
      if (at_ == text_.size()) return Fail("'\"' at the end of a text");
      const char c = text_[at_];
      if (c == '"') break;
      if (c == '\\') {
        if (!Escape(out)) return false;
        continue;
      }
      if (static_cast<uint8_t>(c) < 0x20) return Fail("no control character in a text");
      const size_t length = CharacterLength(text_.substr(at_));
      if (length == 0) return Fail("valid UTF-8");
      out->append(text_.substr(at_, length));
      at_ += length;
    }
    ++at_;
    return true;
  }

  bool Escape(std::string* out) {
    ++at_;
    constexpr std::string_view kLetters = "\"\\/bfnrt", kCharacters = "\"\\/\b\f\n\r\t";
    const char c = Peek();
    if (const size_t which = kLetters.find(c); c != '\0' && which != std::string_view::npos) {
      out->push_back(kCharacters[which]);
      ++at_;
      return true;
    }
    uint32_t code = 0;
    if (c != 'u') return Fail("an escape that JSON knows");
    if (!Hexadecimal(&code)) return false;
    if (code >= 0xD800 && code < 0xDC00 && text_.substr(at_, 2) == "\\u") {
      const size_t back = at_++;
      uint32_t low = 0;
      if (!Hexadecimal(&low)) return false;
      if (low >= 0xDC00 && low < 0xE000) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      } else {
        at_ = back;
      }
    }
    AppendUtf8(code >= 0xD800 && code < 0xE000 ? 0xFFFD : code, out);
    return true;
  }

  // Of "uXXXX", which begins here.
  bool Hexadecimal(uint32_t* code) {
    ++at_;
    const std::string_view digits = text_.substr(at_, 4);
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), *code, 16);
    if (digits.size() != 4 || parsed.ptr != digits.data() + 4)
      return Fail("four hexadecimal digits");
    at_ += 4;
    return true;
  }

  bool Number(Json* value) {
    const size_t begin = at_;
    const bool negative = Peek() == '-';
    if (negative) ++at_;
    if (negative && TakeWord("Infinity")) {
      *value = -kInfinity;
      return true;
    }
    if (!IsDigit(Peek())) return Fail("a digit");
    const bool zero = Peek() == '0';
    const size_t digits = at_;
    while (IsDigit(Peek())) ++at_;
    if (zero && at_ > digits + 1) {
      at_ = digits + 1;
      return Fail("no digit behind a leading 0");
    }
    bool whole = true;
    if (Peek() == '.') {
      whole = false;
      ++at_;
      if (!IsDigit(Peek())) return Fail("a digit");
      while (IsDigit(Peek())) ++at_;
    }
    if (Peek() == 'e' || Peek() == 'E') {
      whole = false;
      ++at_;
      if (Peek() == '+' || Peek() == '-') ++at_;
      if (!IsDigit(Peek())) return Fail("a digit");
      while (IsDigit(Peek())) ++at_;
    }
    const std::string_view number = text_.substr(begin, at_ - begin);
    uint64_t magnitude = 0;
    int64_t signed_value = 0;
    if (whole && !negative && Whole(number, &magnitude)) {
      *value = magnitude;
    } else if (whole && negative && Whole(number, &signed_value)) {
      *value = signed_value;
    } else {
      double floating = 0;
      // Beyond the range: infinite, as in Python.
      if (!absl::SimpleAtod(absl::string_view(number.data(), number.size()), &floating)) {
        return Fail("a number");
      }
      *value = floating;
    }
    return true;
  }

  template <typename T>
  static bool Whole(std::string_view digits, T* value) {
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), *value);
    return parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size();
  }

  const std::string_view text_;
  const RepeatedKeys repeated_keys_;
  size_t at_ = 0;
  int depth_ = 0;
  std::string expected_;
  size_t error_at_ = 0;
};

}  // namespace

absl::StatusOr<Json> ParseJson(const std::string& source, std::string_view text,
                               RepeatedKeys repeated_keys) {
  Json value;
  Parser parser(text, repeated_keys);
  if (parser.Parse(&value)) return value;
  return absl::InvalidArgumentError(absl::StrCat(source, ": not valid JSON: ", parser.error()));
}

}  // namespace mambad
