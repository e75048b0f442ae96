#include "server/cli/terminal_text.h"

#include <algorithm>
#include <clocale>
#include <cmath>
#include <cwchar>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mambad::cli {
namespace {

// Bytes of the whole character at `at`, its value in `rune`; 0: none stands there.
size_t ReadRune(absl::string_view text, size_t at, uint32_t* rune) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char first = byte(0);
  const size_t length = first < 0x80   ? 1
                        : first < 0xC2 ? 0
                        : first < 0xE0 ? 2
                        : first < 0xF0 ? 3
                        : first < 0xF5 ? 4
                                       : 0;
  if (length == 0 || at + length > text.size()) return 0;
  *rune = length == 1 ? first : first & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    *rune = *rune << 6 | (byte(i) & 0x3Fu);
  }
  const bool overlong = (length == 3 && *rune < 0x800) || (length == 4 && *rune < 0x10000);
  const bool surrogate = *rune >= 0xD800 && *rune < 0xE000;
  return overlong || surrogate || *rune > 0x10FFFF ? 0 : length;
}

// Not to be sent to a terminal as they are: C0, DEL, C1, and marks that turn the direction of text.
bool IsControl(uint32_t rune) {
  return rune < 0x20 || (rune >= 0x7F && rune < 0xA0) || (rune >= 0x200B && rune <= 0x200F) ||
         (rune >= 0x2028 && rune <= 0x202E) || (rune >= 0x2060 && rune <= 0x2069) || rune == 0xFEFF;
}

void AppendEscaped(absl::string_view bytes, std::string* out) {
  for (const char c : bytes) absl::StrAppendFormat(out, "\\x%02x", static_cast<unsigned char>(c));
}

std::string Scaled(double value, absl::string_view unit) {
  return absl::StrFormat("%.*f %s", value < 9.95 ? 2 : 1, value, unit);
}

}  // namespace

std::optional<size_t> FirstInvalidUtf8(absl::string_view text) {
  uint32_t rune = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t length = ReadRune(text, at, &rune);
    if (length == 0) return at;
    at += length;
  }
  return std::nullopt;
}

std::string CheckUtf8(absl::string_view name, absl::string_view text) {
  const std::optional<size_t> at = FirstInvalidUtf8(text);
  if (!at) return "";
  return absl::StrFormat("%s: not UTF-8: byte 0x%02x at offset %d", name,
                         static_cast<unsigned char>(text[*at]), *at);
}

std::string QuotePiece(absl::string_view bytes) {
  std::string out = "\"";
  uint32_t rune = 0;
  for (size_t at = 0; at < bytes.size();) {
    const size_t length = ReadRune(bytes, at, &rune);
    const absl::string_view piece = bytes.substr(at, std::max<size_t>(length, 1));
    if (piece == "\n") {
      out += "\\n";
    } else if (piece == "\t") {
      out += "\\t";
    } else if (piece == "\r") {
      out += "\\r";
    } else if (piece == "\"" || piece == "\\") {
      absl::StrAppend(&out, "\\", piece);
    } else if (length == 0 || IsControl(rune)) {
      AppendEscaped(piece, &out);
    } else {
      absl::StrAppend(&out, piece);
    }
    at += piece.size();
  }
  return out + "\"";
}

std::string SafeForTerminal(absl::string_view text) {
  std::string out;
  uint32_t rune = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t length = ReadRune(text, at, &rune);
    const absl::string_view piece = text.substr(at, std::max<size_t>(length, 1));
    const bool is_layout = piece == "\n" || piece == "\t";
    const bool is_control = rune < 0x20 || (rune >= 0x7F && rune < 0xA0);
    if (!is_layout && (length == 0 || is_control)) {
      AppendEscaped(piece, &out);
    } else {
      absl::StrAppend(&out, piece);
    }
    at += piece.size();
  }
  return out;
}

size_t DisplayWidth(absl::string_view text) {
  size_t width = 0;
  uint32_t rune = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t length = ReadRune(text, at, &rune);
    const int columns = length > 1 ? wcwidth(static_cast<wchar_t>(rune)) : 1;
    width += static_cast<size_t>(std::max(columns, 0));
    at += std::max<size_t>(length, 1);
  }
  return width;
}

std::string PadRight(absl::string_view text, size_t width) {
  const size_t columns = DisplayWidth(text);
  return absl::StrCat(text, std::string(columns < width ? width - columns : 0, ' '));
}

std::string GroupDigits(int64_t number) {
  std::string digits = absl::StrCat(number);
  const size_t first = digits[0] == '-' ? 1 : 0;
  for (size_t at = digits.size(); at > first + 3; digits.insert(at, 1, ',')) at -= 3;
  return digits;
}

std::string ShortCount(int64_t number) {
  const auto value = static_cast<double>(number);
  if (value < 1e3) return absl::StrCat(number);
  if (value < 999.95e3) return Scaled(value / 1e3, "K");
  if (value < 999.95e6) return Scaled(value / 1e6, "M");
  return Scaled(value / 1e9, "B");
}

std::string ShortBytes(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value < 1e3) return absl::StrCat(bytes, bytes == 1 ? " byte" : " bytes");
  if (value < 999.95e3) return Scaled(value / 1e3, "KB");
  if (value < 999.95e6) return Scaled(value / 1e6, "MB");
  return Scaled(value / 1e9, "GB");
}

std::string ShortSeconds(double seconds) {
  if (seconds <= 0) return "0 s";
  if (seconds < 0.9995) return absl::StrFormat("%.3g ms", seconds * 1e3);
  if (seconds < 59.95) return absl::StrFormat("%.1f s", seconds);
  const auto whole = static_cast<int64_t>(std::lround(seconds));
  return absl::StrFormat("%d min %d s", whole / 60, whole % 60);
}

}  // namespace mambad::cli
