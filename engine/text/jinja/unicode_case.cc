#include "engine/text/jinja/unicode_case.h"

#include <utf8proc.h>

#include <algorithm>

#include "engine/text/jinja/unicode.h"

namespace mambad::text::jinja {
namespace {

// Letters whose capital or title form has more than one character (Unicode's SpecialCasing, its
// unconditional part), by code point; zeros fill up.
struct LongForms {
  uint32_t letter;
  uint32_t upper[3];
  uint32_t title[3];
};
constexpr LongForms kLongForms[] = {
    {0x00DF, {0x0053, 0x0053}, {0x0053, 0x0073}},
    {0x0149, {0x02BC, 0x004E}, {0x02BC, 0x004E}},
    {0x01F0, {0x004A, 0x030C}, {0x004A, 0x030C}},
    {0x0390, {0x0399, 0x0308, 0x0301}, {0x0399, 0x0308, 0x0301}},
    {0x03B0, {0x03A5, 0x0308, 0x0301}, {0x03A5, 0x0308, 0x0301}},
    {0x0587, {0x0535, 0x0552}, {0x0535, 0x0582}},
    {0x1E96, {0x0048, 0x0331}, {0x0048, 0x0331}},
    {0x1E97, {0x0054, 0x0308}, {0x0054, 0x0308}},
    {0x1E98, {0x0057, 0x030A}, {0x0057, 0x030A}},
    {0x1E99, {0x0059, 0x030A}, {0x0059, 0x030A}},
    {0x1E9A, {0x0041, 0x02BE}, {0x0041, 0x02BE}},
    {0x1F50, {0x03A5, 0x0313}, {0x03A5, 0x0313}},
    {0x1F52, {0x03A5, 0x0313, 0x0300}, {0x03A5, 0x0313, 0x0300}},
    {0x1F54, {0x03A5, 0x0313, 0x0301}, {0x03A5, 0x0313, 0x0301}},
    {0x1F56, {0x03A5, 0x0313, 0x0342}, {0x03A5, 0x0313, 0x0342}},
    {0x1F80, {0x1F08, 0x0399}, {0x1F88}},
    {0x1F81, {0x1F09, 0x0399}, {0x1F89}},
    {0x1F82, {0x1F0A, 0x0399}, {0x1F8A}},
    {0x1F83, {0x1F0B, 0x0399}, {0x1F8B}},
    {0x1F84, {0x1F0C, 0x0399}, {0x1F8C}},
    {0x1F85, {0x1F0D, 0x0399}, {0x1F8D}},
    {0x1F86, {0x1F0E, 0x0399}, {0x1F8E}},
    {0x1F87, {0x1F0F, 0x0399}, {0x1F8F}},
    {0x1F88, {0x1F08, 0x0399}, {0x1F88}},
    {0x1F89, {0x1F09, 0x0399}, {0x1F89}},
    {0x1F8A, {0x1F0A, 0x0399}, {0x1F8A}},
    {0x1F8B, {0x1F0B, 0x0399}, {0x1F8B}},
    {0x1F8C, {0x1F0C, 0x0399}, {0x1F8C}},
    {0x1F8D, {0x1F0D, 0x0399}, {0x1F8D}},
    {0x1F8E, {0x1F0E, 0x0399}, {0x1F8E}},
    {0x1F8F, {0x1F0F, 0x0399}, {0x1F8F}},
    {0x1F90, {0x1F28, 0x0399}, {0x1F98}},
    {0x1F91, {0x1F29, 0x0399}, {0x1F99}},
    {0x1F92, {0x1F2A, 0x0399}, {0x1F9A}},
    {0x1F93, {0x1F2B, 0x0399}, {0x1F9B}},
    {0x1F94, {0x1F2C, 0x0399}, {0x1F9C}},
    {0x1F95, {0x1F2D, 0x0399}, {0x1F9D}},
    {0x1F96, {0x1F2E, 0x0399}, {0x1F9E}},
    {0x1F97, {0x1F2F, 0x0399}, {0x1F9F}},
    {0x1F98, {0x1F28, 0x0399}, {0x1F98}},
    {0x1F99, {0x1F29, 0x0399}, {0x1F99}},
    {0x1F9A, {0x1F2A, 0x0399}, {0x1F9A}},
    {0x1F9B, {0x1F2B, 0x0399}, {0x1F9B}},
    {0x1F9C, {0x1F2C, 0x0399}, {0x1F9C}},
    {0x1F9D, {0x1F2D, 0x0399}, {0x1F9D}},
    {0x1F9E, {0x1F2E, 0x0399}, {0x1F9E}},
    {0x1F9F, {0x1F2F, 0x0399}, {0x1F9F}},
    {0x1FA0, {0x1F68, 0x0399}, {0x1FA8}},
    {0x1FA1, {0x1F69, 0x0399}, {0x1FA9}},
    {0x1FA2, {0x1F6A, 0x0399}, {0x1FAA}},
    {0x1FA3, {0x1F6B, 0x0399}, {0x1FAB}},
    {0x1FA4, {0x1F6C, 0x0399}, {0x1FAC}},
    {0x1FA5, {0x1F6D, 0x0399}, {0x1FAD}},
    {0x1FA6, {0x1F6E, 0x0399}, {0x1FAE}},
    {0x1FA7, {0x1F6F, 0x0399}, {0x1FAF}},
    {0x1FA8, {0x1F68, 0x0399}, {0x1FA8}},
    {0x1FA9, {0x1F69, 0x0399}, {0x1FA9}},
    {0x1FAA, {0x1F6A, 0x0399}, {0x1FAA}},
    {0x1FAB, {0x1F6B, 0x0399}, {0x1FAB}},
    {0x1FAC, {0x1F6C, 0x0399}, {0x1FAC}},
    {0x1FAD, {0x1F6D, 0x0399}, {0x1FAD}},
    {0x1FAE, {0x1F6E, 0x0399}, {0x1FAE}},
    {0x1FAF, {0x1F6F, 0x0399}, {0x1FAF}},
    {0x1FB2, {0x1FBA, 0x0399}, {0x1FBA, 0x0345}},
    {0x1FB3, {0x0391, 0x0399}, {0x1FBC}},
    {0x1FB4, {0x0386, 0x0399}, {0x0386, 0x0345}},
    {0x1FB6, {0x0391, 0x0342}, {0x0391, 0x0342}},
    {0x1FB7, {0x0391, 0x0342, 0x0399}, {0x0391, 0x0342, 0x0345}},
    {0x1FBC, {0x0391, 0x0399}, {0x1FBC}},
    {0x1FC2, {0x1FCA, 0x0399}, {0x1FCA, 0x0345}},
    {0x1FC3, {0x0397, 0x0399}, {0x1FCC}},
    {0x1FC4, {0x0389, 0x0399}, {0x0389, 0x0345}},
    {0x1FC6, {0x0397, 0x0342}, {0x0397, 0x0342}},
    {0x1FC7, {0x0397, 0x0342, 0x0399}, {0x0397, 0x0342, 0x0345}},
    {0x1FCC, {0x0397, 0x0399}, {0x1FCC}},
    {0x1FD2, {0x0399, 0x0308, 0x0300}, {0x0399, 0x0308, 0x0300}},
    {0x1FD3, {0x0399, 0x0308, 0x0301}, {0x0399, 0x0308, 0x0301}},
    {0x1FD6, {0x0399, 0x0342}, {0x0399, 0x0342}},
    {0x1FD7, {0x0399, 0x0308, 0x0342}, {0x0399, 0x0308, 0x0342}},
    {0x1FE2, {0x03A5, 0x0308, 0x0300}, {0x03A5, 0x0308, 0x0300}},
    {0x1FE3, {0x03A5, 0x0308, 0x0301}, {0x03A5, 0x0308, 0x0301}},
    {0x1FE4, {0x03A1, 0x0313}, {0x03A1, 0x0313}},
    {0x1FE6, {0x03A5, 0x0342}, {0x03A5, 0x0342}},
    {0x1FE7, {0x03A5, 0x0308, 0x0342}, {0x03A5, 0x0308, 0x0342}},
    {0x1FF2, {0x1FFA, 0x0399}, {0x1FFA, 0x0345}},
    {0x1FF3, {0x03A9, 0x0399}, {0x1FFC}},
    {0x1FF4, {0x038F, 0x0399}, {0x038F, 0x0345}},
    {0x1FF6, {0x03A9, 0x0342}, {0x03A9, 0x0342}},
    {0x1FF7, {0x03A9, 0x0342, 0x0399}, {0x03A9, 0x0342, 0x0345}},
    {0x1FFC, {0x03A9, 0x0399}, {0x1FFC}},
    {0xFB00, {0x0046, 0x0046}, {0x0046, 0x0066}},
    {0xFB01, {0x0046, 0x0049}, {0x0046, 0x0069}},
    {0xFB02, {0x0046, 0x004C}, {0x0046, 0x006C}},
    {0xFB03, {0x0046, 0x0046, 0x0049}, {0x0046, 0x0066, 0x0069}},
    {0xFB04, {0x0046, 0x0046, 0x004C}, {0x0046, 0x0066, 0x006C}},
    {0xFB05, {0x0053, 0x0054}, {0x0053, 0x0074}},
    {0xFB06, {0x0053, 0x0054}, {0x0053, 0x0074}},
    {0xFB13, {0x0544, 0x0546}, {0x0544, 0x0576}},
    {0xFB14, {0x0544, 0x0535}, {0x0544, 0x0565}},
    {0xFB15, {0x0544, 0x053B}, {0x0544, 0x056B}},
    {0xFB16, {0x054E, 0x0546}, {0x054E, 0x0576}},
    {0xFB17, {0x0544, 0x053D}, {0x0544, 0x056D}},
};

const LongForms* FindLongForms(uint32_t code_point) {
  const auto* found = std::lower_bound(
      std::begin(kLongForms), std::end(kLongForms), code_point,
      [](const LongForms& forms, uint32_t letter) { return forms.letter < letter; });
  return found != std::end(kLongForms) && found->letter == code_point ? found : nullptr;
}

void AppendAll(const uint32_t (&code_points)[3], std::string* out) {
  for (uint32_t code_point : code_points) {
    if (code_point != 0) AppendUtf8(code_point, out);
  }
}

enum class Case { kUpper, kLower, kTitle };

// A byte that is no character, which CodePointAt gives as a surrogate, stays as it is.
bool IsCharacter(uint32_t code_point) { return code_point < 0xD800 || code_point > 0xDFFF; }

utf8proc_category_t CategoryOf(uint32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

bool IsCaseIgnorable(uint32_t code_point) {
  switch (CategoryOf(code_point)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      break;
  }
  static constexpr uint32_t kMarks[] = {0x27,   0x2E,   0x3A,   0xB7,   0x387,  0x55F,
                                        0x5F4,  0x2018, 0x2019, 0x2024, 0x2027, 0xFE13,
                                        0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
  return std::find(std::begin(kMarks), std::end(kMarks), code_point) != std::end(kMarks);
}

// Whether the sigma at `offset` ends a word: a letter before it and none after it.
bool IsFinalSigma(std::string_view text, size_t offset) {
  size_t at = offset;
  bool before = false;
  while (at > 0 && !before) {
    at = PreviousCharacter(text, at);
    const uint32_t code_point = CodePointAt(text, at);
    if (IsCaseIgnorable(code_point)) continue;
    if (!IsCased(code_point)) return false;
    before = true;
  }
  if (!before) return false;
  for (at = offset + 2; at < text.size(); at += CharacterBytes(text, at)) {
    const uint32_t code_point = CodePointAt(text, at);
    if (!IsCaseIgnorable(code_point)) return !IsCased(code_point);
  }
  return true;
}

void AppendCase(Case wanted, std::string_view text, size_t offset, std::string* out) {
  const uint32_t code_point = CodePointAt(text, offset);
  const auto simple = static_cast<utf8proc_int32_t>(code_point);
  if (!IsCharacter(code_point)) {
    out->push_back(text[offset]);
  } else if (wanted == Case::kLower) {
    if (code_point == 0x130) {  // I with a dot becomes i and a combining dot
      out->append("i\xCC\x87");
    } else if (code_point == 0x3A3) {
      AppendUtf8(IsFinalSigma(text, offset) ? 0x3C2 : 0x3C3, out);
    } else {
      AppendUtf8(utf8proc_tolower(simple), out);
    }
  } else if (const LongForms* forms = FindLongForms(code_point)) {
    AppendAll(wanted == Case::kUpper ? forms->upper : forms->title, out);
  } else {
    AppendUtf8(wanted == Case::kUpper ? utf8proc_toupper(simple) : utf8proc_totitle(simple), out);
  }
}

std::string ChangeAll(Case wanted, std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    AppendCase(wanted, text, at, &result);
  }
  return result;
}

}  // namespace

std::string ToUpper(std::string_view text) { return ChangeAll(Case::kUpper, text); }
std::string ToLower(std::string_view text) { return ChangeAll(Case::kLower, text); }

std::string ToTitle(std::string_view text) {
  std::string result;
  bool within_word = false;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    AppendCase(within_word ? Case::kLower : Case::kTitle, text, at, &result);
    within_word = IsCased(CodePointAt(text, at));
  }
  return result;
}

std::string Capitalize(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    AppendCase(at == 0 ? Case::kTitle : Case::kLower, text, at, &result);
  }
  return result;
}

std::string SwapCase(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    const uint32_t code_point = CodePointAt(text, at);
    if (IsUpper(code_point)) {
      AppendCase(Case::kLower, text, at, &result);
    } else if (IsLower(code_point)) {
      AppendCase(Case::kUpper, text, at, &result);
    } else {
      result.append(text.substr(at, CharacterBytes(text, at)));
    }
  }
  return result;
}

std::string FoldCase(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size(); at += CharacterBytes(text, at)) {
    utf8proc_int32_t folded[8];
    int boundary = 0;
    const uint32_t code_point = CodePointAt(text, at);
    const utf8proc_ssize_t count =
        IsCharacter(code_point) ? utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code_point),
                                                          folded, 8, UTF8PROC_CASEFOLD, &boundary)
                                : 0;
    if (count < 1 || count > 8) {
      result.append(text.substr(at, CharacterBytes(text, at)));
    } else {
      for (utf8proc_ssize_t i = 0; i < count; ++i) AppendUtf8(folded[i], &result);
    }
  }
  return result;
}

bool IsUpper(uint32_t code_point) {
  return CategoryOf(code_point) == UTF8PROC_CATEGORY_LU ||
         (code_point >= 0x2160 && code_point <= 0x216F) ||  // Roman numerals
         (code_point >= 0x24B6 && code_point <= 0x24CF);    // letters in circles
}

bool IsLower(uint32_t code_point) {
  return CategoryOf(code_point) == UTF8PROC_CATEGORY_LL || code_point == 0xAA ||
         code_point == 0xBA || (code_point >= 0x2170 && code_point <= 0x217F) ||
         (code_point >= 0x24D0 && code_point <= 0x24E9) ||
         (code_point >= 0x2B0 && code_point <= 0x2B8);
}

bool IsTitle(uint32_t code_point) { return CategoryOf(code_point) == UTF8PROC_CATEGORY_LT; }

bool IsCased(uint32_t code_point) {
  return IsUpper(code_point) || IsLower(code_point) || IsTitle(code_point);
}

bool IsAlphabetic(uint32_t code_point) {
  const utf8proc_category_t category = CategoryOf(code_point);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsDecimal(uint32_t code_point) { return CategoryOf(code_point) == UTF8PROC_CATEGORY_ND; }

bool IsDigit(uint32_t code_point) {
  if (IsDecimal(code_point)) return true;
  // Digits above and below the line and in circles and brackets.
  static constexpr uint32_t kRanges[][2] = {
      {0xB2, 0xB3},     {0xB9, 0xB9},     {0x1369, 0x1371}, {0x19DA, 0x19DA},
      {0x2070, 0x2070}, {0x2074, 0x2079}, {0x2080, 0x2089}, {0x2460, 0x2468},
      {0x2474, 0x247C}, {0x2488, 0x2490}, {0x24EA, 0x24EA}, {0x24F5, 0x24FD},
      {0x24FF, 0x24FF}, {0x2776, 0x277E}, {0x2780, 0x2788}, {0x278A, 0x2792}};
  return std::any_of(std::begin(kRanges), std::end(kRanges), [code_point](const auto& range) {
    return code_point >= range[0] && code_point <= range[1];
  });
}

bool IsNumeric(uint32_t code_point) {
  const utf8proc_category_t category = CategoryOf(code_point);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsPrintable(uint32_t code_point) {
  if (code_point == ' ') return true;
  if (!IsCharacter(code_point)) return false;
  switch (CategoryOf(code_point)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

}  // namespace mambad::text::jinja
