// Text as a terminal shows it: what is UTF-8, how bytes of any kind are written, how wide a text
// stands, how large numbers read.

#ifndef MAMBAD_SERVER_CLI_TERMINAL_TEXT_H_
#define MAMBAD_SERVER_CLI_TERMINAL_TEXT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace mambad::cli {

// Offset of the first byte that belongs to no whole character of UTF-8 (RFC 3629); nothing: all do.
std::optional<size_t> FirstInvalidUtf8(absl::string_view text);

// Empty, or "NAME: not UTF-8: byte 0xff at offset 3".
std::string CheckUtf8(absl::string_view name, absl::string_view text);

// A token's bytes in double quotes, on one line: \n, \t, \\ and \" as in C, other control
// characters and bytes that are no UTF-8 as \xNN.
std::string QuotePiece(absl::string_view bytes);

// Text that others wrote, for a terminal: control characters but line breaks and tabs as \xNN, so
// that none moves the cursor or more.
std::string SafeForTerminal(absl::string_view text);

// Columns of valid UTF-8 without control characters, by the locale of the program.
size_t DisplayWidth(absl::string_view text);
// `text` with spaces up to `width` columns.
std::string PadRight(absl::string_view text, size_t width);

std::string GroupDigits(int64_t number);   // "1,234,567"
std::string ShortCount(int64_t number);    // "950", "4.7 K", "134.5 M", "8.0 B"
std::string ShortBytes(int64_t bytes);     // "950 bytes", "9.5 MB": powers of 1,000
std::string ShortSeconds(double seconds);  // "0.8 ms", "350 ms", "1.2 s", "3 min 20 s"

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_TERMINAL_TEXT_H_
