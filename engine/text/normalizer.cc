#include "engine/text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/code_point_range.h"
#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

constexpr size_t kLargestGrowth = 64;

// Every character of Unicode decomposes to 18 code points at most (UAX 15, stability policy).
constexpr int kLongestDecomposition = 32;

// What decomposes since Unicode 9, which the tokenizers library goes by.
constexpr CodePointRange kNewerDecompositions[] = {
    {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xAB69, 0xAB69},   {0x10781, 0x107BA},
    {0x11938, 0x11938}, {0x1E030, 0x1E06D}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};

// Where marks have come, or gone, since Unicode 9, which the tokenizers library goes by.
constexpr CodePointRange kNewerMarks[] = {
    {0x7FD, 0x7FD},     {0x898, 0x8D3},     {0x9FE, 0x9FE},     {0xAFA, 0xAFF},
    {0xB55, 0xB55},     {0xC04, 0xC3C},     {0xCF3, 0xCF3},     {0xD00, 0xD00},
    {0xD3B, 0xD3C},     {0xD81, 0xD81},     {0xEBA, 0xEBA},     {0xECE, 0xECE},
    {0x1715, 0x1715},   {0x180F, 0x180F},   {0x1ABF, 0x1ACE},   {0x1CF7, 0x1CF7},
    {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0xA8FF, 0xA8FF},   {0x10D24, 0x10F85},
    {0x11070, 0x11074}, {0x110C2, 0x110C2}, {0x11145, 0x11146}, {0x111C9, 0x111C9},
    {0x111CE, 0x111CF}, {0x11241, 0x11241}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
    {0x1182C, 0x11A99}, {0x11D31, 0x11EF6}, {0x11F00, 0x11F42}, {0x13440, 0x13455},
    {0x16F4F, 0x16F4F}, {0x16F7F, 0x16F87}, {0x16FE4, 0x16FF1}, {0x1CF00, 0x1CF46},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E2EF}, {0x1E4EC, 0x1E4EF}};
constexpr CodePointRange kFormerMarks[] = {{0x1CF2, 0x1CF3}};

bool IsNewerMark(int32_t code_point) {
  return IsWithin(static_cast<uint32_t>(code_point), kNewerMarks);
}

uint8_t CombiningClass(int32_t code_point) {
  if (IsNewerMark(code_point)) return 0;
  return static_cast<uint8_t>(utf8proc_get_property(code_point)->combining_class);
}

std::vector<int32_t> Decompose(std::string_view text, bool compatibility) {
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compatibility ? UTF8PROC_COMPAT : 0));
  std::vector<int32_t> code_points;
  code_points.reserve(text.size());
  int32_t parts[kLongestDecomposition];
  while (!text.empty()) {
    const auto code_point = static_cast<int32_t>(FirstCodePoint(text));
    text.remove_prefix(Utf8Length(text));
    int boundary_class = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(code_point, parts, kLongestDecomposition, options, &boundary_class);
    const bool known = !IsWithin(static_cast<uint32_t>(code_point), kNewerDecompositions);
    if (known && count >= 1 && count <= kLongestDecomposition) {
      code_points.insert(code_points.end(), parts, parts + count);
    } else {
      code_points.push_back(code_point);
    }
  }
  return code_points;
}

// Canonical order: marks between two starters, stably by combining class. The library's own
// ordering swaps neighbours, which takes hours for a long run of marks.
void OrderMarks(std::vector<int32_t>* code_points) {
  size_t begin = 0;
  while (begin < code_points->size()) {
    if (CombiningClass((*code_points)[begin]) == 0) {
      ++begin;
      continue;
    }
    size_t end = begin + 1;
    while (end < code_points->size() && CombiningClass((*code_points)[end]) != 0) ++end;
    std::stable_sort(code_points->begin() + begin, code_points->begin() + end,
                     [](int32_t a, int32_t b) { return CombiningClass(a) < CombiningClass(b); });
    begin = end;
  }
}

// A newer mark joins nothing, and nothing is joined across it.
void Compose(std::vector<int32_t>* code_points) {
  constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  auto out = code_points->begin();
  for (auto begin = code_points->begin(); begin != code_points->end();) {
    const auto end = std::find_if(begin + 1, code_points->end(), IsNewerMark);
    const utf8proc_ssize_t length =
        utf8proc_normalize_utf32(&*begin, static_cast<utf8proc_ssize_t>(end - begin), kOptions);
    out = std::copy(begin, length < 0 ? end : begin + length, out);
    begin = end;
  }
  code_points->erase(out, code_points->end());
}

// No character below U+0300 is changed by NFC; U+0300 begins with the byte 0xCC.
bool IsPlainlyComposed(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) < 0xCC; });
}

std::string ReplaceAll(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  out.reserve(text.size());
  size_t from = 0;
  for (size_t at = text.find(pattern); at != std::string_view::npos;
       at = text.find(pattern, from)) {
    out.append(text.substr(from, at - from)).append(content);
    from = at + pattern.size();
  }
  out.append(text.substr(from));
  return out;
}

absl::StatusOr<std::string> ReplaceMatches(std::string_view text, const Regex& regex,
                                           std::string_view content) {
  std::vector<Match> matches;
  if (absl::Status status = regex.FindAll(text, &matches); !status.ok()) return status;
  std::string out;
  size_t from = 0;
  for (const Match& match : matches) {
    out.append(text.substr(from, match.begin - from)).append(content);
    from = match.end;
  }
  out.append(text.substr(from));
  return out;
}

// `change(code_point, out)` for every character.
template <typename Change>
std::string ChangeCharacters(std::string_view text, const Change& change) {
  std::string out;
  out.reserve(text.size());
  for (; !text.empty(); text.remove_prefix(Utf8Length(text))) change(FirstCodePoint(text), &out);
  return out;
}

// Letters with a small form since Unicode 16 and 17: utf8proc 2.8 goes by 15.
struct SmallForms {
  uint32_t first, last, small;
};
constexpr SmallForms kNewerSmallForms[] = {
    {0x1C89, 0x1C89, 0x1C8A},   {0xA7CB, 0xA7CB, 0x264},  {0xA7CC, 0xA7CC, 0xA7CD},
    {0xA7CE, 0xA7CE, 0xA7CF},   {0xA7D2, 0xA7D2, 0xA7D3}, {0xA7D4, 0xA7D4, 0xA7D5},
    {0xA7DA, 0xA7DA, 0xA7DB},   {0xA7DC, 0xA7DC, 0x19B},  {0x10D50, 0x10D65, 0x10D70},
    {0x16EA0, 0x16EB8, 0x16EBB}};

void AppendLowercase(uint32_t code_point, std::string* out) {
  constexpr uint32_t kCapitalIWithDot = 0x130;
  if (code_point == kCapitalIWithDot) {  // the one letter whose small form takes two
    out->append("i\u0307");
    return;
  }
  for (const SmallForms& newer : kNewerSmallForms) {
    if (code_point < newer.first || code_point > newer.last) continue;
    return AppendCodePoint(code_point - newer.first + newer.small, out);
  }
  const auto lower = utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point));
  AppendCodePoint(static_cast<uint32_t>(lower), out);
}

bool IsMark(uint32_t code_point) {
  if (IsWithin(code_point, kFormerMarks)) return true;
  if (IsWithin(code_point, kNewerMarks)) return false;
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
         category == UTF8PROC_CATEGORY_ME;
}

std::string Strip(std::string_view text, bool left, bool right) {
  while (left && !text.empty() && IsWhiteSpace(FirstCodePoint(text))) {
    text.remove_prefix(Utf8Length(text));
  }
  while (right && !text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && (static_cast<uint8_t>(text[last]) & 0xC0) == 0x80) --last;
    if (!IsWhiteSpace(FirstCodePoint(text.substr(last)))) break;
    text = text.substr(0, last);
  }
  return std::string(text);
}

}  // namespace

std::string NormalizeUnicode(std::string_view text, UnicodeForm form) {
  if (form == UnicodeForm::kNfc && IsPlainlyComposed(text)) return std::string(text);
  const bool compatibility = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  const bool compose = form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
  std::vector<int32_t> code_points = Decompose(text, compatibility);
  OrderMarks(&code_points);
  if (compose) Compose(&code_points);
  std::string out;
  out.reserve(text.size());
  for (const int32_t code_point : code_points) {
    AppendCodePoint(static_cast<uint32_t>(code_point), &out);
  }
  return out;
}

absl::StatusOr<std::string> Normalizer::Normalize(std::string_view text, bool goes_on) const {
  const size_t limit = kLargestGrowth * text.size() + (size_t{64} << 10);
  std::string current(text);
  for (const NormalizerStep& step : steps_) {
    switch (step.kind) {
      case NormalizerStep::Kind::kUnicode:
        current = NormalizeUnicode(current, step.form);
        break;
      case NormalizerStep::Kind::kPrepend:
        if (!current.empty() && !goes_on) current.insert(0, step.content);
        break;
      case NormalizerStep::Kind::kReplace:
        current = ReplaceAll(current, step.pattern, step.content);
        break;
      case NormalizerStep::Kind::kReplaceRegex: {
        absl::StatusOr<std::string> replaced = ReplaceMatches(current, *step.regex, step.content);
        if (!replaced.ok()) return replaced.status();
        current = *std::move(replaced);
        break;
      }
      case NormalizerStep::Kind::kLowercase:
        current = ChangeCharacters(current, AppendLowercase);
        break;
      case NormalizerStep::Kind::kStripAccents:
        current = ChangeCharacters(current, [](uint32_t code_point, std::string* out) {
          if (!IsMark(code_point)) AppendCodePoint(code_point, out);
        });
        break;
      case NormalizerStep::Kind::kStrip:
        current = Strip(current, step.left, step.right);
        break;
    }
    if (current.size() > limit) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the normalizer turns ", text.size(), " bytes into ", current.size()));
    }
  }
  return current;
}

}  // namespace mambad::text
