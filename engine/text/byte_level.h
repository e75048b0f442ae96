// GPT-2's byte alphabet: every byte stands for one printable character, so that vocabularies of
// arbitrary bytes can be written as text. Printable Latin-1 bytes stand for themselves; the
// others take the code points from U+0100 on, in order of their value (space is U+0120 "Ġ").
#ifndef MAMBAD_ENGINE_TEXT_BYTE_LEVEL_H_
#define MAMBAD_ENGINE_TEXT_BYTE_LEVEL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mambad::text {

// The character for a byte, as UTF-8.
std::string ByteLevelCharacter(uint8_t byte);

// The bytes behind a spelling; nothing when it has a character outside the alphabet or is not
// valid UTF-8.
std::optional<std::string> ByteLevelDecode(std::string_view spelling);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_BYTE_LEVEL_H_
