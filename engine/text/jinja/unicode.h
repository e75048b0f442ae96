#ifndef MAMBAD_ENGINE_TEXT_JINJA_UNICODE_H_
#define MAMBAD_ENGINE_TEXT_JINJA_UNICODE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// Text as Python's str sees it, held as UTF-8. A byte that is no part of valid UTF-8 counts as one
// character of its own and is passed on unchanged, so nothing here fails on odd input. All
// functions take linear time.
namespace mambad::text::jinja {

// Bytes of the character that starts at `offset` (1 to 4; offset < text.size()).
size_t CharacterBytes(std::string_view text, size_t offset);

// Code point of the character at `offset`; the byte's value + 0xDC00 for an invalid byte (as
// Python's surrogateescape).
uint32_t CodePointAt(std::string_view text, size_t offset);

void AppendUtf8(uint32_t code_point, std::string* out);

// The number in `digits` lowercase hexadecimal digits.
void AppendHexadecimal(uint32_t number, int digits, std::string* out);

// Python's escape of a character: \xhh, \uhhhh or \Uhhhhhhhh, the shortest that holds it.
void AppendEscape(uint32_t code_point, std::string* out);

// Start of the character that ends at `end` (end > 0).
size_t PreviousCharacter(std::string_view text, size_t end);

// Number of characters.
size_t CountCharacters(std::string_view text);

std::vector<std::string_view> SplitCharacters(std::string_view text);

// str.isspace() of one code point.
bool IsSpace(uint32_t code_point);

// Bytes of the whitespace at the beginning or end of `text`.
size_t LeadingSpaceBytes(std::string_view text);
size_t TrailingSpaceBytes(std::string_view text);

// str.strip family: removes whitespace, or any character of `characters` when given.
std::string_view Strip(std::string_view text, std::optional<std::string_view> characters, bool left,
                       bool right);

// First occurrence at or after `from`, or npos; linear whatever the needle.
size_t Find(std::string_view text, std::string_view needle, size_t from);

// Last occurrence that ends at or before `until`, or npos.
size_t FindLast(std::string_view text, std::string_view needle, size_t until);

// Number of non-overlapping occurrences; the empty needle occurs before each character and at the
// end.
size_t CountOccurrences(std::string_view text, std::string_view needle);

// str.replace; limit < 0 is no limit.
std::string Replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t limit);

// str.split: without separator at runs of whitespace. limit < 0 is no limit. separator not empty.
std::vector<std::string_view> Split(std::string_view text,
                                    std::optional<std::string_view> separator, int64_t limit);

// str.rsplit, its pieces from left to right.
std::vector<std::string_view> SplitFromRight(std::string_view text,
                                             std::optional<std::string_view> separator,
                                             int64_t limit);

// str.splitlines.
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);

bool IsAscii(std::string_view text);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_UNICODE_H_
