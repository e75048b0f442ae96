#include "engine/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/text/absl_view.h"
#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

constexpr size_t kLongestPattern = size_t{64} << 10;
// Backtracking points of one match. The patterns in use need about one a byte at most (runs of
// white space); nested repeats, which need exponentially many, stop here.
constexpr uint32_t kBacktracksAtLeast = 1'000'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;

// Members of bracket expressions with the meaning that Oniguruma gives to the letters.
constexpr char kSpaces[] =
    "\\t-\\r\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}"
    "\\x{3000}";
constexpr char kWordCharacters[] =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}"
    "\\x{1F170}-\\x{1F189}";
// Only where the letter stands outside of brackets.
constexpr char kLatin1WordNumbers[] = "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";
constexpr char kDigits[] = "\\p{Nd}";

const char* ClassMembers(char letter) {
  switch (absl::ascii_tolower(static_cast<unsigned char>(letter))) {
    case 's':
      return kSpaces;
    case 'w':
      return kWordCharacters;
    case 'd':
      return kDigits;
    default:
      return nullptr;
  }
}

absl::Status Unsupported(std::string_view construct, std::string_view pattern) {
  return absl::InvalidArgumentError(absl::StrCat("regular expression construct \"",
                                                 AbslView(construct), "\" is not supported, in \"",
                                                 AbslView(pattern), "\""));
}

// Rewrites one escape sequence, whose letter stands at `pattern[at]`.
absl::Status TranslateEscape(std::string_view pattern, size_t at, bool in_class, std::string* out) {
  const char letter = pattern[at];
  if (const char* members = ClassMembers(letter)) {
    const bool negated = absl::ascii_isupper(static_cast<unsigned char>(letter));
    if (in_class && negated)
      return Unsupported(absl::StrCat("[\\", AbslView(pattern.substr(at, 1)), "]"), pattern);
    if (in_class) {
      out->append(members);
    } else {
      const bool word = members == kWordCharacters;
      absl::StrAppend(out, negated ? "[^" : "[", members, word ? kLatin1WordNumbers : "", "]");
    }
    return absl::OkStatus();
  }
  constexpr std::string_view kKnownLetters = "pPxtnrfvea";
  if (absl::ascii_isalnum(static_cast<unsigned char>(letter)) &&
      kKnownLetters.find(letter) == std::string_view::npos) {
    return Unsupported(absl::StrCat("\\", AbslView(pattern.substr(at, 1))), pattern);
  }
  out->push_back('\\');
  if (letter == 'v') {  // Oniguruma: one character; PCRE2: a class
    out->append("x{0B}");
  } else {
    out->push_back(letter);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Translate(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const std::string_view rest = pattern.substr(i);
    if (c == '\\') {
      if (i + 1 == pattern.size()) return Unsupported("\\ at the end", pattern);
      const absl::Status status = TranslateEscape(pattern, ++i, in_class, &out);
      if (!status.ok()) return status;
      continue;
    }
    if (in_class) {
      if (c == '[') return Unsupported("[[...]]", pattern);
      if (rest.substr(0, 2) == "&&") return Unsupported("&&", pattern);
      if (c == ']') in_class = false;
    } else {
      if (rest.substr(0, 2) == "(*") return Unsupported("(*", pattern);
      if (c == '[') {
        in_class = true;
        // A bracket right after the opening one is a member in one syntax and an error in the
        // other.
        const size_t first = rest.substr(0, 2) == "[^" ? 2 : 1;
        if (rest.substr(first, 1) == "]") return Unsupported("[]", pattern);
      }
    }
    out.push_back(c);
  }
  return out;
}

struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

std::string ErrorText(int error) {
  PCRE2_UCHAR message[256];
  pcre2_get_error_message(error, message, sizeof(message));
  return reinterpret_cast<const char*>(message);
}

}  // namespace

struct Regex::Compiled {
  std::string pattern;
  pcre2_code* code = nullptr;

  ~Compiled() { pcre2_code_free(code); }
};

Regex::Regex(std::unique_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kLongestPattern) {
    return absl::InvalidArgumentError(absl::StrCat("regular expression of ", pattern.size(),
                                                   " bytes; expected at most ", kLongestPattern));
  }
  if (absl::Status status = CheckUtf8(pattern); !status.ok()) return status;
  absl::StatusOr<std::string> translated = Translate(pattern);
  if (!translated.ok()) return translated.status();

  auto compiled = std::make_unique<Compiled>();
  compiled->pattern = std::string(pattern);
  std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 50);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Oniguruma's ^ and $ always stand at lines, hence MULTILINE.
  compiled->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                    &offset, context.get());
  if (compiled->code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression \"", AbslView(pattern), "\": ", ErrorText(error)));
  }
  // Without JIT (its memory may be forbidden) the interpreter gives the same matches, slower.
  pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE);
  return Regex(std::move(compiled));
}

absl::Status Regex::FindAll(std::string_view text, std::vector<Match>* matches) const {
  std::unique_ptr<pcre2_match_data, FreeMatchData> data(pcre2_match_data_create(1, nullptr));
  std::unique_ptr<pcre2_match_context, FreeMatchContext> context(
      pcre2_match_context_create(nullptr));
  const size_t limit = kBacktracksAtLeast + 4 * text.size();
  pcre2_set_match_limit(context.get(), static_cast<uint32_t>(std::min<size_t>(limit, UINT32_MAX)));
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);

  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t start = 0;
  while (start < text.size()) {
    int found = pcre2_match(compiled_->code, subject, text.size(), start, PCRE2_NO_UTF_CHECK,
                            data.get(), context.get());
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its stack on the heap
      found = pcre2_match(compiled_->code, subject, text.size(), start,
                          PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), context.get());
    }
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return absl::ResourceExhaustedError(absl::StrCat("regular expression \"", compiled_->pattern,
                                                       "\" on a text of ", text.size(),
                                                       " bytes: ", ErrorText(found)));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    if (bounds[1] > bounds[0]) {
      matches->push_back({bounds[0], bounds[1]});
      start = bounds[1];
    } else {
      if (bounds[0] >= text.size()) break;
      start = bounds[0] + Utf8Length(text.substr(bounds[0]));
    }
  }
  return absl::OkStatus();
}

}  // namespace mambad::text
