#include "engine/text/regex_sets.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/text/absl_view.h"
#include "engine/text/regex_newer_characters.h"

namespace mambad::text {
namespace {

constexpr std::string_view kGraphic = R"(\p{L}\p{M}\p{N}\p{P}\p{S}\p{Cf}\p{Co})";
constexpr std::string_view kPrintable = R"(\p{L}\p{M}\p{N}\p{P}\p{S}\p{Cf}\p{Co}\p{Zs})";
constexpr std::string_view kBlank = R"(\t\p{Zs})";
constexpr std::string_view kSpaces =
    R"(\t-\r\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kWordCharacters =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169})"
    R"(\x{1F170}-\x{1F189})";
constexpr std::string_view kLooseWordCharacters =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169})"
    R"(\x{1F170}-\x{1F189}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";

struct NamedSet {
  std::string_view name, members;
};

// Both in brackets ([:name:]) and as \p{Name}.
constexpr NamedSet kSharedSets[] = {
    {"alnum", R"(\p{Alphabetic}\p{Nd})"},
    {"alpha", R"(\p{Alphabetic})"},
    {"ascii", R"(\x{0}-\x{7F})"},
    {"blank", kBlank},
    {"cntrl", R"(\p{Cc})"},
    {"digit", R"(\p{Nd})"},
    {"graph", kGraphic},
    {"lower", R"(\p{Lowercase})"},
    {"print", kPrintable},
    {"space", kSpaces},
    {"upper", R"(\p{Uppercase})"},
    {"xdigit", kHexDigits},
};
constexpr NamedSet kBracketSets[] = {{"punct", R"(\p{P}\p{S})"}, {"word", kWordCharacters}};
constexpr NamedSet kPropertySets[] = {
    {"punct", R"(\p{P})"},
    {"word", kLooseWordCharacters},
    {"any", R"(\x{0}-\x{10FFFF})"},
    {"alphabetic", R"(\p{Alphabetic})"},
    {"uppercase", R"(\p{Uppercase})"},
    {"lowercase", R"(\p{Lowercase})"},
    {"whitespace", kSpaces},
    {"emoji", R"(\p{Emoji})"},
    {"lc", R"(\p{Lu}\p{Ll}\p{Lt})"},
    {"casedletter", R"(\p{Lu}\p{Ll}\p{Lt})"},
};

// Long names of general categories and the short ones, which PCRE2 knows.
struct Category {
  std::string_view name, code;
};
constexpr Category kCategories[] = {{"letter", "L"},
                                    {"uppercaseletter", "Lu"},
                                    {"lowercaseletter", "Ll"},
                                    {"titlecaseletter", "Lt"},
                                    {"modifierletter", "Lm"},
                                    {"otherletter", "Lo"},
                                    {"mark", "M"},
                                    {"combiningmark", "M"},
                                    {"nonspacingmark", "Mn"},
                                    {"spacingmark", "Mc"},
                                    {"enclosingmark", "Me"},
                                    {"number", "N"},
                                    {"decimalnumber", "Nd"},
                                    {"letternumber", "Nl"},
                                    {"othernumber", "No"},
                                    {"punctuation", "P"},
                                    {"connectorpunctuation", "Pc"},
                                    {"dashpunctuation", "Pd"},
                                    {"openpunctuation", "Ps"},
                                    {"closepunctuation", "Pe"},
                                    {"initialpunctuation", "Pi"},
                                    {"finalpunctuation", "Pf"},
                                    {"otherpunctuation", "Po"},
                                    {"symbol", "S"},
                                    {"mathsymbol", "Sm"},
                                    {"currencysymbol", "Sc"},
                                    {"modifiersymbol", "Sk"},
                                    {"othersymbol", "So"},
                                    {"separator", "Z"},
                                    {"spaceseparator", "Zs"},
                                    {"lineseparator", "Zl"},
                                    {"paragraphseparator", "Zp"},
                                    {"other", "C"},
                                    {"control", "Cc"},
                                    {"format", "Cf"},
                                    {"privateuse", "Co"},
                                    {"unassigned", "Cn"}};
constexpr std::string_view kCategoryCodes[] = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd",
    "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm",
    "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co", "Cn"};
// Scripts that PCRE2 and Oniguruma call by the same name.
constexpr std::string_view kScripts[] = {
    "Arabic",     "Armenian", "Bengali",   "Bopomofo",  "Cherokee", "Common",   "Cyrillic",
    "Devanagari", "Ethiopic", "Georgian",  "Greek",     "Gujarati", "Gurmukhi", "Han",
    "Hangul",     "Hebrew",   "Hiragana",  "Inherited", "Kannada",  "Katakana", "Khmer",
    "Lao",        "Latin",    "Malayalam", "Mongolian", "Myanmar",  "Oriya",    "Sinhala",
    "Syriac",     "Tamil",    "Telugu",    "Thaana",    "Thai",     "Tibetan"};

std::string Plain(std::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (c != ' ' && c != '_' && c != '-') {
      plain.push_back(absl::ascii_tolower(static_cast<unsigned char>(c)));
    }
  }
  return plain;
}

template <typename Sets>
std::optional<std::string_view> Find(const Sets& sets, std::string_view name) {
  for (const NamedSet& set : sets) {
    if (set.name == name) return set.members;
  }
  return std::nullopt;
}

}  // namespace

std::string Spaces() { return std::string(kSpaces); }
std::string Digits() { return WithNewerCharacters("\\p{Nd}"); }
std::string WordCharacters() { return WithNewerCharacters(kWordCharacters); }
std::string LooseWordCharacters() { return WithNewerCharacters(kLooseWordCharacters); }

std::optional<std::string> FindBracketSet(std::string_view name) {
  for (const auto& found : {Find(kSharedSets, name), Find(kBracketSets, name)}) {
    if (found.has_value()) return WithNewerCharacters(*found);
  }
  return std::nullopt;
}

std::optional<PropertySet> FindProperty(std::string_view name) {
  std::string plain = Plain(name);
  for (const Category& category : kCategories) {
    if (category.name == plain) plain = Plain(category.code);
  }
  // What newer characters are not is said by what all others are.
  if (plain == "assigned" || plain == "cn") {
    return PropertySet{"\\P{Cn}" + AllNewerCharacters(/*with_format=*/true), plain == "cn"};
  }
  if (plain == "c") {
    return PropertySet{
        R"(\p{L}\p{M}\p{N}\p{P}\p{S}\p{Z})" + AllNewerCharacters(/*with_format=*/false), true};
  }
  for (const auto& found : {Find(kSharedSets, plain), Find(kPropertySets, plain)}) {
    if (found.has_value()) return PropertySet{WithNewerCharacters(*found), false};
  }
  for (const std::string_view code : kCategoryCodes) {
    if (Plain(code) != plain) continue;
    return PropertySet{WithNewerCharacters(absl::StrCat("\\p{", AbslView(code), "}")), false};
  }
  for (const std::string_view script : kScripts) {
    if (Plain(script) != plain) continue;
    return PropertySet{WithNewerCharacters(absl::StrCat("\\p{sc:", AbslView(script), "}")), false};
  }
  return std::nullopt;
}

bool DependsOnCase(std::string_view name) {
  const std::string plain = Plain(name);
  for (const std::string_view cased :
       {"lu", "ll", "lt", "uppercaseletter", "lowercaseletter", "titlecaseletter", "lc",
        "casedletter", "upper", "lower", "uppercase", "lowercase"}) {
    if (cased == plain) return true;
  }
  for (const std::string_view script : kScripts) {  // some letters are of all scripts
    if (Plain(script) == plain) return true;
  }
  return false;
}

}  // namespace mambad::text
