// UTF-8 as RFC 3629 has it: no surrogates, nothing above U+10FFFF, shortest forms only.
#ifndef MAMBAD_ENGINE_TEXT_UTF8_H_
#define MAMBAD_ENGINE_TEXT_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace mambad::text {

enum class Utf8Kind {
  kValid,       // one whole character
  kInvalid,     // a maximal subpart that no continuation can mend (Unicode 3.9, table 3-8)
  kIncomplete,  // the bytes end inside a character that further bytes could complete
};

struct Utf8Unit {
  Utf8Kind kind;
  size_t length;  // bytes, at least 1
};

// Classifies what stands at the beginning of `bytes`, which must not be empty.
Utf8Unit FirstUtf8Unit(std::string_view bytes);

// Appends `bytes` to `out` with every invalid part replaced by U+FFFD, as Python's
// errors="replace" does, and returns how many bytes were used. An incomplete character at the end
// is left unused, or replaced too when `final`.
size_t AppendValidUtf8(std::string_view bytes, bool final, std::string* out);

// INVALID_ARGUMENT with the offset of the first byte that is not part of valid UTF-8.
absl::Status CheckUtf8(std::string_view text);

// Bytes of the character at the beginning of valid, non-empty UTF-8.
size_t Utf8Length(std::string_view valid_text);
// Its code point.
uint32_t FirstCodePoint(std::string_view valid_text);
void AppendCodePoint(uint32_t code_point, std::string* out);

// Unicode's White_Space property.
bool IsWhiteSpace(uint32_t code_point);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_UTF8_H_
