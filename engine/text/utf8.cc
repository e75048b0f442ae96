#include "engine/text/utf8.h"

#include "absl/strings/str_cat.h"

namespace mambad::text {
namespace {

struct LeadByte {
  int continuations;  // 0: not a lead byte of a longer character
  uint8_t low, high;  // allowed range of the second byte
};

LeadByte Classify(uint8_t lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {1, 0x80, 0xBF};
  if (lead == 0xE0) return {2, 0xA0, 0xBF};
  if (lead == 0xED) return {2, 0x80, 0x9F};
  if (lead >= 0xE1 && lead <= 0xEF) return {2, 0x80, 0xBF};
  if (lead == 0xF0) return {3, 0x90, 0xBF};
  if (lead >= 0xF1 && lead <= 0xF3) return {3, 0x80, 0xBF};
  if (lead == 0xF4) return {3, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Unit FirstUtf8Unit(std::string_view bytes) {
  const uint8_t lead = static_cast<uint8_t>(bytes[0]);
  if (lead < 0x80) return {Utf8Kind::kValid, 1};
  const LeadByte expected = Classify(lead);
  if (expected.continuations == 0) return {Utf8Kind::kInvalid, 1};
  for (int i = 1; i <= expected.continuations; ++i) {
    if (static_cast<size_t>(i) == bytes.size()) return {Utf8Kind::kIncomplete, bytes.size()};
    const uint8_t byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t low = i == 1 ? expected.low : 0x80;
    const uint8_t high = i == 1 ? expected.high : 0xBF;
    if (byte < low || byte > high) return {Utf8Kind::kInvalid, static_cast<size_t>(i)};
  }
  return {Utf8Kind::kValid, static_cast<size_t>(expected.continuations) + 1};
}

size_t AppendValidUtf8(std::string_view bytes, bool final, std::string* out) {
  size_t used = 0;
  while (used < bytes.size()) {
    const Utf8Unit unit = FirstUtf8Unit(bytes.substr(used));
    if (unit.kind == Utf8Kind::kIncomplete && !final) break;
    if (unit.kind == Utf8Kind::kValid) {
      out->append(bytes.data() + used, unit.length);
    } else {
      out->append("\xEF\xBF\xBD");
    }
    used += unit.length;
  }
  return used;
}

absl::Status CheckUtf8(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    if (static_cast<uint8_t>(text[offset]) < 0x80) {
      ++offset;
      continue;
    }
    const Utf8Unit unit = FirstUtf8Unit(text.substr(offset));
    if (unit.kind != Utf8Kind::kValid) {
      return absl::InvalidArgumentError(
          absl::StrCat("text is not valid UTF-8: bad byte at offset ", offset));
    }
    offset += unit.length;
  }
  return absl::OkStatus();
}

size_t Utf8Length(std::string_view valid_text) {
  const uint8_t lead = static_cast<uint8_t>(valid_text[0]);
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

uint32_t FirstCodePoint(std::string_view valid_text) {
  const uint8_t lead = static_cast<uint8_t>(valid_text[0]);
  const size_t length = Utf8Length(valid_text);
  if (length == 1) return lead;
  uint32_t code_point = lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    code_point = code_point << 6 | (static_cast<uint8_t>(valid_text[i]) & 0x3Fu);
  }
  return code_point;
}

void AppendCodePoint(uint32_t code_point, std::string* out) {
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
    return;
  }
  const int continuations = code_point < 0x800 ? 1 : code_point < 0x10000 ? 2 : 3;
  const uint32_t marker = continuations == 1 ? 0xC0 : continuations == 2 ? 0xE0 : 0xF0;
  out->push_back(static_cast<char>(marker | code_point >> (6 * continuations)));
  for (int i = continuations - 1; i >= 0; --i) {
    out->push_back(static_cast<char>(0x80 | (code_point >> (6 * i) & 0x3F)));
  }
}

bool IsWhiteSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace mambad::text
