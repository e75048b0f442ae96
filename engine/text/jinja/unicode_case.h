// Letters and their cases, as Python's str has them.
#ifndef MAMBAD_ENGINE_TEXT_JINJA_UNICODE_CASE_H_
#define MAMBAD_ENGINE_TEXT_JINJA_UNICODE_CASE_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace mambad::text::jinja {

// str.upper and so on, for letters of every script. Linear time; bytes that are no UTF-8 stay.
std::string ToUpper(std::string_view text);
std::string ToLower(std::string_view text);
std::string ToTitle(std::string_view text);
std::string Capitalize(std::string_view text);
std::string SwapCase(std::string_view text);
std::string FoldCase(std::string_view text);

// What str.isupper and so on ask of one character.
bool IsUpper(uint32_t code_point);
bool IsLower(uint32_t code_point);
bool IsTitle(uint32_t code_point);
bool IsCased(uint32_t code_point);
bool IsAlphabetic(uint32_t code_point);
bool IsDecimal(uint32_t code_point);
bool IsDigit(uint32_t code_point);
bool IsNumeric(uint32_t code_point);
bool IsPrintable(uint32_t code_point);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_UNICODE_CASE_H_
