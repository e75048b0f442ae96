// Oniguruma's names of sets of characters, as members of brackets that PCRE2 reads, the newer ones
// that only Oniguruma knows (regex_newer_characters.h) among them.
#ifndef MAMBAD_ENGINE_TEXT_REGEX_SETS_H_
#define MAMBAD_ENGINE_TEXT_REGEX_SETS_H_

#include <optional>
#include <string>
#include <string_view>

namespace mambad::text {

// What \s, \d, \w (in brackets) and \h stand for.
std::string Spaces();
std::string Digits();
std::string WordCharacters();
// \w outside of brackets, and \p{Word}: the numbers of Latin-1 too.
std::string LooseWordCharacters();
inline constexpr std::string_view kHexDigits = "0-9A-Fa-f";

// Members of [:name:]; nothing for an unknown name.
std::optional<std::string> FindBracketSet(std::string_view name);

struct PropertySet {
  std::string members;
  bool negated = false;  // the property is all but those
};

// Of \p{name}, in any case and with spaces, underlines or hyphens; nothing for an unknown name.
// General categories, their long names, binary properties that tokenizers use, and scripts.
std::optional<PropertySet> FindProperty(std::string_view name);

// Whether the set of either name holds a letter without its other case.
bool DependsOnCase(std::string_view name);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_REGEX_SETS_H_
