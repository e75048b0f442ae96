#include "engine/text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/absl_view.h"
#include "engine/text/regex_syntax.h"
#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

constexpr size_t kLongestPattern = size_t{64} << 10;
// Backtracking points of one match. The patterns in use need about one a byte at most (runs of
// white space); nested repeats, which need exponentially many, stop here.
constexpr uint32_t kBacktracksAtLeast = 1'000'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;

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
  absl::StatusOr<std::string> translated = TranslateRegex(pattern);
  if (!translated.ok()) return translated.status();

  auto compiled = std::make_unique<Compiled>();
  compiled->pattern = std::string(pattern);
  std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 250);  // the translation bounds it, and adds some
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Oniguruma's ^ and $ always stand at lines, hence MULTILINE.
  uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  // What it concludes of where a match can begin leaves some out where groups are atomic (10.42).
  if (translated->find("(?>") != std::string::npos) options |= PCRE2_NO_START_OPTIMIZE;
  compiled->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()),
                                 translated->size(), options, &error, &offset, context.get());
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
  size_t last_end = SIZE_MAX;  // of the last match
  while (start <= text.size()) {
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
    if (bounds[1] == bounds[0] && bounds[1] == last_end) {
      // An empty match right behind another one counts for nothing: on to the next character.
      start += start < text.size() ? Utf8Length(text.substr(start)) : 1;
      continue;
    }
    matches->push_back({bounds[0], bounds[1]});
    start = last_end = bounds[1];
  }
  return absl::OkStatus();
}

}  // namespace mambad::text
