// Oniguruma's names of sets of characters, as members of brackets that PCRE2 reads.
#ifndef MAMBAD_ENGINE_TEXT_REGEX_SETS_H_
#define MAMBAD_ENGINE_TEXT_REGEX_SETS_H_

#include <optional>
#include <string>
#include <string_view>

namespace mambad::text {

// What \s, \w (in brackets) and \h stand for.
inline constexpr std::string_view kSpaces =
    R"(\t-\r\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
inline constexpr std::string_view kWordCharacters =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169})"
    R"(\x{1F170}-\x{1F189})";
// \w outside of brackets, and \p{Word}: the numbers of Latin-1 too.
inline constexpr std::string_view kLooseWordCharacters =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169})"
    R"(\x{1F170}-\x{1F189}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";
inline constexpr std::string_view kHexDigits = "0-9A-Fa-f";

// Members of [:name:]; nothing for an unknown name.
std::optional<std::string_view> FindBracketSet(std::string_view name);

// Of \p{name}, in any case and with spaces, underlines or hyphens; nothing for an unknown name.
// General categories, their long names, binary properties that tokenizers use, and scripts.
std::optional<std::string> FindProperty(std::string_view name);

// Whether the set of either name holds a letter without its other case.
bool DependsOnCase(std::string_view name);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_REGEX_SETS_H_
