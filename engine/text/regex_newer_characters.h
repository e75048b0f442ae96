// Characters that Oniguruma knows and PCRE2 does not yet.
#ifndef MAMBAD_ENGINE_TEXT_REGEX_NEWER_CHARACTERS_H_
#define MAMBAD_ENGINE_TEXT_REGEX_NEWER_CHARACTERS_H_

#include <string>
#include <string_view>

namespace mambad::text {

// Members of a bracket, with the newer characters behind each property (\p{...}) that has some.
std::string WithNewerCharacters(std::string_view members);

// All of them, and those but format characters (Cf): as members.
std::string AllNewerCharacters(bool with_format);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_REGEX_NEWER_CHARACTERS_H_
