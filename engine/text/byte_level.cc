#include "engine/text/byte_level.h"

#include <array>

#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

constexpr int kShifted = 68;  // bytes that do not stand for themselves

struct Alphabet {
  std::array<uint16_t, 256> code_points;
  std::array<int16_t, 256 + kShifted> bytes;  // by code point; -1: not in the alphabet
};

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet{};
  for (auto& byte : alphabet.bytes) byte = -1;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const int code_point = StandsForItself(byte) ? byte : next++;
    alphabet.code_points[byte] = static_cast<uint16_t>(code_point);
    alphabet.bytes[code_point] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

std::string ByteLevelCharacter(uint8_t byte) {
  std::string character;
  AppendCodePoint(kAlphabet.code_points[byte], &character);
  return character;
}

std::optional<std::string> ByteLevelDecode(std::string_view spelling) {
  if (!CheckUtf8(spelling).ok()) return std::nullopt;
  std::string bytes;
  while (!spelling.empty()) {
    const uint32_t code_point = FirstCodePoint(spelling);
    if (code_point >= kAlphabet.bytes.size() || kAlphabet.bytes[code_point] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(kAlphabet.bytes[code_point]));
    spelling.remove_prefix(Utf8Length(spelling));
  }
  return bytes;
}

}  // namespace mambad::text
