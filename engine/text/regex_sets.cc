#include "engine/text/regex_sets.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/text/absl_view.h"

namespace mambad::text {
namespace {

constexpr std::string_view kGraphic = R"(\p{L}\p{M}\p{N}\p{P}\p{S}\p{Cf}\p{Co})";
constexpr std::string_view kPrintable = R"(\p{L}\p{M}\p{N}\p{P}\p{S}\p{Cf}\p{Co}\p{Zs})";
constexpr std::string_view kBlank = R"(\t\p{Zs})";

struct NamedSet {
  std::string_view name, members;
};

// Both in brackets ([:name:]) and as \p{Name}.
// Letters above others count as letters since Unicode 16, which PCRE2 10.42 is older than.
constexpr std::string_view kAlphabetic = R"(\p{Alphabetic}\x{363}-\x{36F}\x{1DD3}-\x{1DE6})";

constexpr NamedSet kSharedSets[] = {
    {"alnum", R"(\p{Alphabetic}\x{363}-\x{36F}\x{1DD3}-\x{1DE6}\p{Nd})"},
    {"alpha", kAlphabetic},
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
    {"assigned", R"(\P{Cn})"},
    {"alphabetic", kAlphabetic},
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

std::optional<std::string_view> FindBracketSet(std::string_view name) {
  const std::optional<std::string_view> shared = Find(kSharedSets, name);
  return shared.has_value() ? shared : Find(kBracketSets, name);
}

std::optional<std::string> FindProperty(std::string_view name) {
  const std::string plain = Plain(name);
  for (const auto& found : {Find(kSharedSets, plain), Find(kPropertySets, plain)}) {
    if (found.has_value()) return std::string(*found);
  }
  for (const std::string_view code : kCategoryCodes) {
    if (Plain(code) == plain) return absl::StrCat("\\p{", AbslView(code), "}");
  }
  for (const Category& category : kCategories) {
    if (category.name == plain) return absl::StrCat("\\p{", AbslView(category.code), "}");
  }
  for (const std::string_view script : kScripts) {
    if (Plain(script) == plain) return absl::StrCat("\\p{sc:", AbslView(script), "}");
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
