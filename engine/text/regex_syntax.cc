#include "engine/text/regex_syntax.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/text/absl_view.h"
#include "engine/text/regex_sets.h"
#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

constexpr int kDeepest = 50;                     // groups and sets inside each other
constexpr size_t kLongestTranslation = 1 << 20;  // bytes
constexpr std::string_view kAny = "(?s:.)";
constexpr uint32_t kMostRepeats = 65535;  // PCRE2's limit

// What can stand for one character: members of brackets, and expressions that are no members.
struct CharacterSet {
  std::string members;
  std::vector<std::string> expressions;

  std::string Expression(bool negated) const {
    if (expressions.empty()) {
      if (members.empty()) return negated ? std::string(kAny) : "(?!)";
      return absl::StrCat(negated ? "[^" : "[", members, "]");
    }
    std::vector<std::string> all = expressions;
    if (!members.empty()) all.push_back(absl::StrCat("[", members, "]"));
    const std::string joined = absl::StrJoin(all, "|");
    return negated ? absl::StrCat("(?:(?!", joined, ")", AbslView(kAny), ")")
                   : absl::StrCat("(?:", joined, ")");
  }

  void Add(std::string_view named, bool negated) {
    if (negated) {
      expressions.push_back(absl::StrCat("[^", AbslView(named), "]"));
    } else {
      members.append(named);
    }
  }
};

std::string ByNumber(uint32_t code_point) {
  return absl::StrCat("\\x{", absl::Hex(code_point), "}");
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern), rest_(pattern) {}

  absl::StatusOr<std::string> Translate() {
    std::string out;
    if (!Alternatives(&out)) return Error();
    if (!rest_.empty()) Refuse(rest_.substr(0, 1));  // a bracket that nobody opened
    if (out.size() > kLongestTranslation) Refuse("a pattern this long");
    if (refused_.has_value()) return Error();
    return out;
  }

 private:
  absl::Status Error() const {
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression construct \"", refused_.value_or("?"),
                     "\" is not supported, in \"", AbslView(pattern_), "\""));
  }
  bool Refuse(std::string_view construct) {
    if (!refused_.has_value()) refused_ = std::string(construct);
    return false;
  }
  // There the other case of every member belongs to the whole set: PCRE2 sees its parts.
  bool RefuseCaseless(std::string_view construct) {
    return Refuse(absl::StrCat(AbslView(construct), " with (?i)"));
  }
  bool StartsWith(std::string_view text) const { return rest_.substr(0, text.size()) == text; }
  bool Take(std::string_view text) {
    if (!StartsWith(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }
  std::string_view TakeCharacter() {
    const std::string_view character = rest_.substr(0, Utf8Length(rest_));
    rest_.remove_prefix(character.size());
    return character;
  }

  // Up to the bracket that closes the group, or the end.
  bool Alternatives(std::string* out) {
    if (++depth_ > kDeepest) return Refuse("groups nested this deep");
    std::string opened;  // closes what (?i) opened
    const bool caseless_outside = caseless_;
    bool empty = false, branch_empty = true;
    while (!rest_.empty() && rest_.front() != ')') {
      if (out->size() > kLongestTranslation) return Refuse("a pattern this long");
      if (Take("|")) {
        out->push_back('|');
        empty |= std::exchange(branch_empty, true);
        continue;
      }
      std::string atom;
      bool repeatable = true;
      if (!Atom(&atom, &opened, &repeatable)) return false;
      if (!Quantifiers(repeatable, &atom)) return false;
      branch_empty &= may_be_empty_;
      out->append(atom);
    }
    may_be_empty_ = empty || branch_empty;
    out->append(opened);
    caseless_ = caseless_outside;
    --depth_;
    return true;
  }

  bool Atom(std::string* atom, std::string* opened, bool* repeatable) {
    const char c = rest_.front();
    may_be_empty_ = c == '^' || c == '$';
    if (c == '(') return Group(atom, opened, repeatable);
    if (c == '\\') return Escape(atom);
    if (c == '*' || c == '+' || c == '?') return Refuse(rest_.substr(0, 1));
    if (c == '[') {
      rest_.remove_prefix(1);
      std::string expression;
      if (!Bracket(&expression)) return false;
      atom->append(expression);
      return true;
    }
    if (c == '{' || c == '}' || c == ']') {
      rest_.remove_prefix(1);
      absl::StrAppend(atom, "\\", std::string(1, c));
      return true;
    }
    if (c == '.' || c == '^' || c == '$') {
      atom->push_back(c);
      rest_.remove_prefix(1);
      return true;
    }
    const std::string_view character = TakeCharacter();
    atom->append(character == "#" || character == " " ? ByNumber(FirstCodePoint(character))
                                                      : std::string(character));
    return true;
  }

  bool Group(std::string* atom, std::string* opened, bool* repeatable) {
    if (StartsWith("(*")) return Refuse("(*");
    if (Take("(?#")) {
      const size_t end = rest_.find(')');
      if (end == std::string_view::npos) return Refuse("(?#");
      rest_.remove_prefix(end + 1);
      *repeatable = false;
      may_be_empty_ = true;
      return true;
    }
    std::string_view opening = "(?:";
    bool named = false;
    if (!StartsWith("(?")) {
      rest_.remove_prefix(1);
    } else {
      bool known = false;
      for (const std::string_view sign : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
        if (known || !Take(sign)) continue;
        opening = sign;
        known = true;
      }
      if (!known && (Take("(?<") || Take("(?'"))) {  // a name, which nobody refers to
        const size_t end = rest_.find_first_of(">'");
        const std::string_view name = rest_.substr(0, end);
        named = end != std::string_view::npos && end > 0 &&
                std::all_of(name.begin(), name.end(), [](char c) {
                  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' ||
                         static_cast<signed char>(c) < 0;
                });
        if (!named) return Refuse("(?<");
        rest_.remove_prefix(end + 1);
      } else if (!known) {
        return Options(atom, opened, repeatable);
      }
    }
    atom->append(opening);
    if (!CloseGroup(atom)) return false;
    may_be_empty_ |= opening != "(?:" && opening != "(?>";
    return true;
  }

  bool CloseGroup(std::string* atom) {
    if (!Alternatives(atom)) return false;
    if (!Take(")")) return Refuse("( without )");
    atom->push_back(')');
    return true;
  }

  // (?im-im) and (?im-im:...).
  bool Options(std::string* atom, std::string* opened, bool* repeatable) {
    const std::string_view start = rest_;
    rest_.remove_prefix(2);
    std::string options = "(?";
    const bool caseless_outside = caseless_;
    bool on = true;
    while (!rest_.empty() && rest_.front() != ':' && rest_.front() != ')') {
      const char c = rest_.front();
      if (c != 'i' && c != 'm' && c != '-') {
        const std::string_view upto = start.substr(0, start.size() - rest_.size());
        return Refuse(absl::StrCat(AbslView(upto), AbslView(TakeCharacter())));
      }
      if (c == '-') on = false;
      if (c == 'i') caseless_ = on;
      options.push_back(c == 'm' ? 's' : c);
      rest_.remove_prefix(1);
    }
    options.push_back(':');
    if (Take(":")) {
      atom->append(options);
      if (!CloseGroup(atom)) return false;
      caseless_ = caseless_outside;
      return true;
    }
    if (!Take(")")) return Refuse(start.substr(0, 2));
    atom->append(options);  // holds up to the end of the group around it
    opened->push_back(')');
    *repeatable = false;
    may_be_empty_ = true;
    return true;
  }

  // How often the interval repeats, as PCRE2 writes it; nothing when the brace is only a brace.
  std::optional<std::string> Interval(bool* exact) {
    size_t at = 1;
    const auto number = [&](std::string* digits) {
      while (at < rest_.size() && absl::ascii_isdigit(static_cast<unsigned char>(rest_[at]))) {
        digits->push_back(rest_[at++]);
      }
    };
    std::string low, high;
    number(&low);
    const bool comma = at < rest_.size() && rest_[at] == ',';
    if (comma) {
      ++at;
      number(&high);
    }
    const bool closed = at < rest_.size() && rest_[at] == '}';
    if (!closed || (low.empty() && high.empty())) return std::nullopt;
    const auto too_many = [](const std::string& digits) {
      return digits.size() > 5 || (!digits.empty() && std::stoul(digits) > kMostRepeats);
    };
    if (too_many(low) || too_many(high)) {
      Refuse(rest_.substr(0, at + 1));
      return std::nullopt;
    }
    rest_.remove_prefix(at + 1);
    *exact = !comma;
    if (low.empty()) low = "0";
    return comma ? absl::StrCat("{", low, ",", high, "}") : absl::StrCat("{", low, "}");
  }

  // The libraries leave a loop over what matches nothing at different places.
  bool RepeatsEmpty(bool atom_may_be_empty, std::string_view quantifier) const {
    const bool once = quantifier.front() == '?' || quantifier.substr(0, 3) == "{1}" ||
                      quantifier.substr(0, 5) == "{0,1}";
    return atom_may_be_empty && !once;
  }

  static bool AllowsNone(std::string_view quantifier) {
    if (quantifier.front() != '{') return quantifier.front() != '+';
    return quantifier.find_first_of("123456789") > quantifier.find_first_of(",}");
  }

  bool Quantifiers(bool repeatable, std::string* atom) {
    const bool atom_may_be_empty = may_be_empty_;
    for (bool first = true; !rest_.empty(); first = false) {
      const char c = rest_.front();
      std::string quantifier;
      if (c == '{') {
        bool exact = false;
        const std::optional<std::string> interval = Interval(&exact);
        if (refused_.has_value()) return false;
        if (!interval.has_value()) return true;
        quantifier = *interval;
        // "{n,m}+" is a repeat of repeats; so is "{n}?", which is one or none.
        if (!exact && Take("?")) quantifier.push_back('?');
      } else if (c == '*' || c == '+' || c == '?') {
        quantifier.push_back(c);
        rest_.remove_prefix(1);
        if (StartsWith("?") || StartsWith("+")) {
          quantifier.push_back(rest_.front());
          rest_.remove_prefix(1);
        }
      } else {
        return true;
      }
      if (!repeatable) return Refuse(quantifier);
      if (RepeatsEmpty(atom_may_be_empty, quantifier)) {
        return Refuse(absl::StrCat(quantifier, " after what may match nothing"));
      }
      may_be_empty_ |= AllowsNone(quantifier);
      if (first) {
        atom->append(quantifier);
      } else {
        *atom = absl::StrCat("(?:", *atom, ")", quantifier);
      }
      if (atom->size() > kLongestTranslation) return Refuse("a pattern this long");
    }
    return true;
  }

  bool Escape(std::string* atom) {
    if (rest_.size() < 2) return Refuse("\\ at the end");
    const char letter = rest_[1];
    const std::string word = absl::StrCat("[", LooseWordCharacters(), "]");
    std::string simple;
    switch (letter) {
      case 'A':
      case 'z':
      case 'Z':
      case 'G':
        simple = absl::StrCat("\\", std::string(1, letter));
        break;
      case 'R':
        simple = R"((?>\r\n|[\n-\r\x{85}\x{2028}\x{2029}]))";
        break;
      case 'O':
        simple = kAny;
        break;
      case 'N':
        simple = "[^\\n]";
        break;
      case 'b':
        simple = absl::StrCat("(?:(?<=", word, ")(?!", word, ")|(?<!", word, ")(?=", word, "))");
        break;
      case 'B':
        simple = absl::StrCat("(?:(?<=", word, ")(?=", word, ")|(?<!", word, ")(?!", word, "))");
        break;
      default:
        break;
    }
    if (!simple.empty()) {
      may_be_empty_ = std::string_view("AzZGbB").find(letter) != std::string_view::npos;
      rest_.remove_prefix(2);
      atom->append(simple);
      return true;
    }
    CharacterSet set;
    std::optional<uint32_t> character;
    if (!SetEscape(/*in_brackets=*/false, &set, &character)) return false;
    atom->append(character.has_value() ? ByNumber(*character) : set.Expression(false));
    return true;
  }

  // An escape that stands for one character or a set of them.
  bool SetEscape(bool in_brackets, CharacterSet* set, std::optional<uint32_t>* character) {
    const std::string_view start = rest_;
    rest_.remove_prefix(1);
    if (rest_.empty()) return Refuse("\\ at the end");
    const std::string_view letter = TakeCharacter();
    const char c = letter.front();
    const bool negated = absl::ascii_isupper(static_cast<unsigned char>(c));
    switch (absl::ascii_tolower(static_cast<unsigned char>(c))) {
      case 's':
        set->Add(Spaces(), negated);
        return true;
      case 'w':
        set->Add(in_brackets ? WordCharacters() : LooseWordCharacters(), negated);
        return true;
      case 'd':
        set->Add(Digits(), negated);
        return true;
      case 'h':
        set->Add(kHexDigits, negated);
        return true;
      case 'p':
        return Property(negated, set);
      default:
        break;
    }
    constexpr std::string_view kControls = "tnrfvae";
    constexpr uint32_t kControlCharacters[] = {9, 10, 13, 12, 11, 7, 27};
    if (const size_t at = kControls.find(c); at != std::string_view::npos) {
      *character = kControlCharacters[at];
      return true;
    }
    if (c == 'b' && in_brackets) {
      *character = 8;
      return true;
    }
    if (c == 'x' || c == 'u') return NumberEscape(c, character);
    if (c == '0' && (rest_.empty() || !absl::ascii_isdigit(static_cast<unsigned char>(rest_[0])))) {
      *character = 0;
      return true;
    }
    if (absl::ascii_isalnum(static_cast<unsigned char>(c))) return Refuse(start.substr(0, 2));
    *character = FirstCodePoint(letter);
    return true;
  }

  bool NumberEscape(char kind, std::optional<uint32_t>* character) {
    const bool braced = kind == 'x' && Take("{");
    const size_t most = braced ? 8 : kind == 'x' ? 2 : 4;
    uint32_t value = 0;
    size_t digits = 0;
    while (digits < most && digits < rest_.size() &&
           absl::ascii_isxdigit(static_cast<unsigned char>(rest_[digits]))) {
      const auto digit = static_cast<unsigned char>(absl::ascii_tolower(rest_[digits]));
      value = 16 * value + (absl::ascii_isdigit(digit) ? digit - '0' : digit - 'a' + 10);
      ++digits;
    }
    rest_.remove_prefix(digits);
    const bool whole = braced ? Take("}") && digits > 0 : kind == 'x' ? digits > 0 : digits == 4;
    const bool a_byte = kind == 'x' && !braced && value > 0x7F;  // of UTF-8, not a character
    if (!whole || a_byte || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
      return Refuse(absl::StrCat("\\", std::string(1, kind)));
    }
    *character = value;
    return true;
  }

  // After \p or \P.
  bool Property(bool negated, CharacterSet* set) {
    const size_t end = rest_.find('}');
    if (!StartsWith("{") || end == std::string_view::npos) return Refuse("\\p without {Name}");
    std::string_view name = rest_.substr(1, end - 1);
    const std::string construct = absl::StrCat("\\p", AbslView(rest_.substr(0, end + 1)));
    rest_.remove_prefix(end + 1);
    if (!name.empty() && name.front() == '^') {
      negated = !negated;
      name.remove_prefix(1);
    }
    if (caseless_ && DependsOnCase(name)) return RefuseCaseless(construct);
    if (const std::optional<PropertySet> property = FindProperty(name)) {
      set->Add(property->members, negated != property->negated);
      return true;
    }
    return Refuse(construct);
  }

  // [:name:] and [:^name:], which begin here.
  bool PosixBracket(CharacterSet* set) {
    const size_t end = rest_.find(":]");
    if (end == std::string_view::npos) return Refuse("[:");
    const std::string_view construct = rest_.substr(0, end + 2);
    std::string_view name = rest_.substr(2, end - 2);
    rest_.remove_prefix(end + 2);
    const bool negated = !name.empty() && name.front() == '^';
    if (negated) name.remove_prefix(1);
    if (caseless_ && DependsOnCase(name)) return RefuseCaseless(construct);
    if (const std::optional<std::string> members = FindBracketSet(name)) {
      set->Add(*members, negated);
      return true;
    }
    return Refuse(construct);
  }

  // After the opening bracket; up to and with the closing one.
  bool Bracket(std::string* expression) {
    if (++depth_ > kDeepest) return Refuse("sets nested this deep");
    const bool negated = Take("^");
    std::vector<std::string> cuts;  // what stands before each &&
    CharacterSet set;
    // A bracket right after the opening one is a member, if another one closes the set.
    if (StartsWith("]")) {
      if (rest_.find(']', 1) == std::string_view::npos) return Refuse("[]");
      rest_.remove_prefix(1);
      if (!Range(']', &set)) return false;
    }
    while (!Take("]")) {
      if (rest_.empty()) return Refuse("[ without ]");
      if (set.members.size() > kLongestTranslation) return Refuse("a pattern this long");
      if (Take("&&")) {
        if (caseless_) return RefuseCaseless("&&");
        cuts.push_back(set.Expression(false));
        set = {};
      } else if (StartsWith("[:")) {
        if (!PosixBracket(&set)) return false;
      } else if (Take("[")) {
        std::string inner;
        if (caseless_ && StartsWith("^")) return RefuseCaseless("[[^...]]");
        if (!Bracket(&inner)) return false;
        set.expressions.push_back(std::move(inner));
      } else if (!Member(&set)) {
        return false;
      }
    }
    --depth_;
    if (cuts.empty()) {
      *expression = set.Expression(negated);
      return true;
    }
    std::string all;
    for (const std::string& cut : cuts) absl::StrAppend(&all, "(?=", cut, ")");
    absl::StrAppend(&all, set.Expression(false));
    *expression = negated ? absl::StrCat("(?:(?!", all, ")", AbslView(kAny), ")")
                          : absl::StrCat("(?:", all, ")");
    return true;
  }

  bool Member(CharacterSet* set) {
    std::optional<uint32_t> character;
    if (!OneMember(set, &character)) return false;
    if (character.has_value()) return Range(*character, set);
    // A set begins no range.
    if (StartsWith("-") && !StartsWith("-]")) return Refuse("a range that begins with a set");
    return true;
  }

  bool OneMember(CharacterSet* set, std::optional<uint32_t>* character) {
    if (StartsWith("\\")) return SetEscape(/*in_brackets=*/true, set, character);
    *character = FirstCodePoint(TakeCharacter());
    return true;
  }

  // A character that was read, and the range that it begins if it begins one.
  bool Range(uint32_t first, CharacterSet* set) {
    absl::StrAppend(&set->members, ByNumber(first));
    const bool ranged = StartsWith("-") && rest_.size() > 1 && rest_[1] != ']' && rest_[1] != '[' &&
                        rest_.substr(1, 2) != "&&";
    if (!ranged) return true;
    rest_.remove_prefix(1);
    std::optional<uint32_t> last;
    CharacterSet none;
    if (!OneMember(&none, &last)) return false;
    if (!last.has_value()) return Refuse("a range that ends with a set");
    if (*last < first) return Refuse("a range that ends before it begins");
    absl::StrAppend(&set->members, "-", ByNumber(*last));
    return true;
  }

  const std::string_view pattern_;
  std::string_view rest_;
  int depth_ = 0;
  bool caseless_ = false;
  bool may_be_empty_ = false;  // whether what was read last may match nothing
  std::optional<std::string> refused_;
};

}  // namespace

absl::StatusOr<std::string> TranslateRegex(std::string_view pattern) {
  return Translator(pattern).Translate();
}

}  // namespace mambad::text
