// Oniguruma's regular expressions in its Ruby syntax, as tokenizer files have them, in the words of
// PCRE2.
#ifndef MAMBAD_ENGINE_TEXT_REGEX_SYNTAX_H_
#define MAMBAD_ENGINE_TEXT_REGEX_SYNTAX_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace mambad::text {

// A pattern for PCRE2 with UTF, UCP and MULTILINE, newlines LF, that matches what `pattern` (valid
// UTF-8) matches in Oniguruma. What differs and is said anew here:
//   {,m} is {0,m}; {n,m}+ and what follows another quantifier repeats it; {n}? is one or none
//   \h hexadecimal digits, \R line ends, \O any, \N none but line feed, \b words of Unicode
//   \s \w \d, POSIX brackets and \p{...} by Oniguruma's lists; sets in sets, and their cuts (&&)
//   (?m) lets . match line feeds; (?i) holds to the end of its group, over its alternatives too
// INVALID_ARGUMENT names the construct that is refused: references, conditions, calls and callouts,
// absence, \K \X \y, options other than i and m, with (?i) properties of case and sets that are cut
// or negated in sets, repeats of what may match nothing ("(a*)+"), bytes (\xE3), unknown
// letters and property names.
absl::StatusOr<std::string> TranslateRegex(std::string_view pattern);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_REGEX_SYNTAX_H_
