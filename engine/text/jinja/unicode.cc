#include "engine/text/jinja/unicode.h"

#include <string.h>

#include <algorithm>

#include "absl/strings/ascii.h"

namespace mambad::text::jinja {
namespace {

// Length of the valid UTF-8 sequence at `offset`, or 0. Overlong forms and surrogates are invalid
// (Unicode, table 3-7).
size_t ValidSequence(std::string_view text, size_t offset) {
  auto byte = [&](size_t index) -> unsigned {
    return offset + index < text.size() ? static_cast<unsigned char>(text[offset + index]) : 0u;
  };
  auto continuation = [&](size_t index) { return (byte(index) & 0xC0) == 0x80; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4 || !continuation(1)) return 0;
  if (lead < 0xE0) return 2;
  const unsigned second = byte(1);
  if (lead == 0xE0 && second < 0xA0) return 0;
  if (lead == 0xED && second > 0x9F) return 0;
  if (lead == 0xF0 && second < 0x90) return 0;
  if (lead == 0xF4 && second > 0x8F) return 0;
  if (!continuation(2)) return 0;
  if (lead < 0xF0) return 3;
  return continuation(3) ? 4 : 0;
}

}  // namespace

size_t PreviousCharacter(std::string_view text, size_t end) {
  for (size_t bytes = 2; bytes <= 4 && bytes <= end; ++bytes) {
    if (ValidSequence(text.substr(0, end), end - bytes) == bytes) return end - bytes;
  }
  return end - 1;
}

size_t CharacterBytes(std::string_view text, size_t offset) {
  return std::max<size_t>(1, ValidSequence(text, offset));
}

uint32_t CodePointAt(std::string_view text, size_t offset) {
  const size_t bytes = ValidSequence(text, offset);
  const uint32_t lead = static_cast<unsigned char>(text[offset]);
  if (bytes == 0) return 0xDC00 + lead;
  if (bytes == 1) return lead;
  uint32_t code_point = lead & (0x7F >> bytes);
  for (size_t index = 1; index < bytes; ++index) {
    code_point = code_point << 6 | (static_cast<unsigned char>(text[offset + index]) & 0x3F);
  }
  return code_point;
}

void AppendUtf8(uint32_t code_point, std::string* out) {
  auto push = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xC0 | code_point >> 6);
    push(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    push(0xE0 | code_point >> 12);
    push(0x80 | (code_point >> 6 & 0x3F));
    push(0x80 | (code_point & 0x3F));
  } else {
    push(0xF0 | code_point >> 18);
    push(0x80 | (code_point >> 12 & 0x3F));
    push(0x80 | (code_point >> 6 & 0x3F));
    push(0x80 | (code_point & 0x3F));
  }
}

void AppendHexadecimal(uint32_t number, int digits, std::string* out) {
  for (int digit = digits - 1; digit >= 0; --digit) {
    out->push_back("0123456789abcdef"[number >> (4 * digit) & 0xF]);
  }
}

void AppendEscape(uint32_t code_point, std::string* out) {
  const int digits = code_point < 0x100 ? 2 : code_point < 0x10000 ? 4 : 8;
  out->append(digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U");
  AppendHexadecimal(code_point, digits, out);
}

size_t CountCharacters(std::string_view text) {
  size_t count = 0;
  for (size_t offset = 0; offset < text.size(); offset += CharacterBytes(text, offset)) ++count;
  return count;
}

std::vector<std::string_view> SplitCharacters(std::string_view text) {
  std::vector<std::string_view> characters;
  for (size_t offset = 0; offset < text.size();) {
    const size_t bytes = CharacterBytes(text, offset);
    characters.push_back(text.substr(offset, bytes));
    offset += bytes;
  }
  return characters;
}

bool IsSpace(uint32_t code_point) {
  if (code_point <= 0x20) {
    return code_point == 0x20 || (code_point >= 0x09 && code_point <= 0x0D) ||
           (code_point >= 0x1C && code_point <= 0x1F);
  }
  switch (code_point) {
    case 0x85:
    case 0xA0:
    case 0x1680:
    case 0x2028:
    case 0x2029:
    case 0x202F:
    case 0x205F:
    case 0x3000:
      return true;
    default:
      return code_point >= 0x2000 && code_point <= 0x200A;
  }
}

size_t LeadingSpaceBytes(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size() && IsSpace(CodePointAt(text, offset))) {
    offset += CharacterBytes(text, offset);
  }
  return offset;
}

size_t TrailingSpaceBytes(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t start = PreviousCharacter(text, end);
    if (!IsSpace(CodePointAt(text.substr(0, end), start))) break;
    end = start;
  }
  return text.size() - end;
}

std::string_view Strip(std::string_view text, std::optional<std::string_view> characters, bool left,
                       bool right) {
  if (!characters.has_value()) {
    if (left) text.remove_prefix(LeadingSpaceBytes(text));
    if (right) text.remove_suffix(TrailingSpaceBytes(text));
    return text;
  }
  std::vector<uint32_t> set;
  for (std::string_view character : SplitCharacters(*characters)) {
    set.push_back(CodePointAt(character, 0));
  }
  std::sort(set.begin(), set.end());
  auto contains = [&set](uint32_t code_point) {
    return std::binary_search(set.begin(), set.end(), code_point);
  };
  while (left && !text.empty() && contains(CodePointAt(text, 0))) {
    text.remove_prefix(CharacterBytes(text, 0));
  }
  while (right && !text.empty()) {
    const size_t start = PreviousCharacter(text, text.size());
    if (!contains(CodePointAt(text, start))) break;
    text = text.substr(0, start);
  }
  return text;
}

size_t Find(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  // memmem is the two-way algorithm: no needle makes it quadratic, unlike std::string_view::find.
  const void* hit = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  if (hit == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(hit) - text.data());
}

size_t FindLast(std::string_view text, std::string_view needle, size_t until) {
  text = text.substr(0, until);
  // Backwards, by the search whose time is linear.
  const std::string reversed_text(text.rbegin(), text.rend());
  const std::string reversed_needle(needle.rbegin(), needle.rend());
  const size_t at = Find(reversed_text, reversed_needle, 0);
  return at == std::string_view::npos ? at : text.size() - at - needle.size();
}

size_t CountOccurrences(std::string_view text, std::string_view needle) {
  if (needle.empty()) return CountCharacters(text) + 1;
  size_t count = 0;
  for (size_t at = Find(text, needle, 0); at != std::string_view::npos;
       at = Find(text, needle, at + needle.size())) {
    ++count;
  }
  return count;
}

std::string Replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t limit) {
  std::string result;
  int64_t done = 0;
  size_t offset = 0;
  if (from.empty()) {
    while (limit < 0 || done < limit) {
      result.append(to);
      ++done;
      if (offset == text.size()) return result;
      const size_t bytes = CharacterBytes(text, offset);
      result.append(text.substr(offset, bytes));
      offset += bytes;
    }
  }
  while (!from.empty() && (limit < 0 || done < limit)) {
    const size_t at = Find(text, from, offset);
    if (at == std::string_view::npos) break;
    result.append(text.substr(offset, at - offset)).append(to);
    offset = at + from.size();
    ++done;
  }
  result.append(text.substr(offset));
  return result;
}

namespace {

// The last piece keeps its trailing whitespace when the limit ends the splitting, as in Python.
std::vector<std::string_view> SplitAtSpace(std::string_view text, int64_t limit) {
  std::vector<std::string_view> pieces;
  text.remove_prefix(LeadingSpaceBytes(text));
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(pieces.size()) == limit) {
      pieces.push_back(text);
      break;
    }
    size_t end = 0;
    while (end < text.size() && !IsSpace(CodePointAt(text, end))) end += CharacterBytes(text, end);
    pieces.push_back(text.substr(0, end));
    text.remove_prefix(end);
    text.remove_prefix(LeadingSpaceBytes(text));
  }
  return pieces;
}

}  // namespace

std::vector<std::string_view> Split(std::string_view text,
                                    std::optional<std::string_view> separator, int64_t limit) {
  if (!separator.has_value()) return SplitAtSpace(text, limit);
  std::vector<std::string_view> pieces;
  while (limit < 0 || static_cast<int64_t>(pieces.size()) < limit) {
    const size_t at = Find(text, *separator, 0);
    if (at == std::string_view::npos) break;
    pieces.push_back(text.substr(0, at));
    text.remove_prefix(at + separator->size());
  }
  pieces.push_back(text);
  return pieces;
}

namespace {

std::vector<std::string_view> SplitAtSpaceFromRight(std::string_view text, int64_t limit) {
  std::vector<std::string_view> pieces;
  text.remove_suffix(TrailingSpaceBytes(text));
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(pieces.size()) == limit) {
      pieces.push_back(text);
      break;
    }
    size_t start = text.size();
    while (start > 0) {
      const size_t previous = PreviousCharacter(text, start);
      if (IsSpace(CodePointAt(text, previous))) break;
      start = previous;
    }
    pieces.push_back(text.substr(start));
    text = text.substr(0, start);
    text.remove_suffix(TrailingSpaceBytes(text));
  }
  return pieces;
}

}  // namespace

std::vector<std::string_view> SplitFromRight(std::string_view text,
                                             std::optional<std::string_view> separator,
                                             int64_t limit) {
  std::vector<std::string_view> pieces;
  if (!separator.has_value()) {
    pieces = SplitAtSpaceFromRight(text, limit);
  } else {
    const std::string reversed_text(text.rbegin(), text.rend());
    const std::string reversed_separator(separator->rbegin(), separator->rend());
    for (std::string_view piece : Split(reversed_text, reversed_separator, limit)) {
      const size_t end = text.size() - (piece.data() - reversed_text.data());
      pieces.push_back(text.substr(end - piece.size(), piece.size()));
    }
  }
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  auto ends_line = [](uint32_t c) {
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
  };
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = CharacterBytes(text, at);
    if (!ends_line(CodePointAt(text, at))) {
      at += bytes;
      continue;
    }
    const size_t after = at + bytes + (text.substr(at).starts_with("\r\n") ? 1 : 0);
    lines.push_back(text.substr(start, (keep_ends ? after : at) - start));
    start = at = after;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char byte) {
    return absl::ascii_isascii(static_cast<unsigned char>(byte));
  });
}

}  // namespace mambad::text::jinja
