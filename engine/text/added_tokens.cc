#include "engine/text/added_tokens.h"

#include <utf8proc.h>

#include <utility>

#include "engine/text/code_point_range.h"
#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

uint64_t Edge(int32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

size_t PreviousCharacter(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

// Those that came with Unicode 15.1 and 16: utf8proc 2.8 goes by 15.
constexpr CodePointRange kNewerWordCharacters[] = {
    {0x897, 0x897},     {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},
    {0x105C0, 0x105F3}, {0x10D40, 0x10D65}, {0x10D69, 0x10D6D}, {0x10D6F, 0x10D85},
    {0x10EC2, 0x10EC4}, {0x10EFC, 0x10EFC}, {0x11380, 0x11389}, {0x1138B, 0x1138B},
    {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113C0}, {0x113C2, 0x113C2},
    {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D3}, {0x113E1, 0x113E2},
    {0x116D0, 0x116E3}, {0x11BC0, 0x11BE0}, {0x11BF0, 0x11BF9}, {0x11F5A, 0x11F5A},
    {0x13460, 0x143FA}, {0x16100, 0x16139}, {0x16D40, 0x16D6C}, {0x16D70, 0x16D79},
    {0x18CFF, 0x18CFF}, {0x1CCF0, 0x1CCF9}, {0x1E5D0, 0x1E5FA}, {0x2EBF0, 0x2EE5D}};

// \w of Unicode's UTS 18, as of Unicode 16.
bool IsWordCharacter(uint32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      // The joiners and the letters in circles and squares.
      return code_point == 0x200C || code_point == 0x200D ||
             (code_point >= 0x24B6 && code_point <= 0x24E9) ||
             (code_point >= 0x1F130 && code_point <= 0x1F149) ||
             (code_point >= 0x1F150 && code_point <= 0x1F169) ||
             (code_point >= 0x1F170 && code_point <= 0x1F189) ||
             IsWithin(code_point, kNewerWordCharacters);
  }
}

bool TouchesWord(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsWordCharacter(FirstCodePoint(text.substr(PreviousCharacter(text, begin))))) {
    return true;
  }
  return end < text.size() && IsWordCharacter(FirstCodePoint(text.substr(end)));
}

size_t SkipSpacesBack(std::string_view text, size_t end, size_t limit) {
  while (end > limit) {
    const size_t begin = PreviousCharacter(text, end);
    if (!IsWhiteSpace(FirstCodePoint(text.substr(begin)))) break;
    end = begin;
  }
  return end;
}

size_t SkipSpaces(std::string_view text, size_t begin) {
  while (begin < text.size() && IsWhiteSpace(FirstCodePoint(text.substr(begin)))) {
    begin += Utf8Length(text.substr(begin));
  }
  return begin;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), token_at_node_(1, -1) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    int32_t node = 0;
    begins_[static_cast<uint8_t>(tokens_[i].content[0])] = true;
    for (const char byte : tokens_[i].content) {
      const auto next = static_cast<int32_t>(token_at_node_.size());
      const auto [edge, is_new] = edges_.emplace(Edge(node, byte), next);
      if (is_new) token_at_node_.push_back(-1);
      node = edge->second;
    }
    if (token_at_node_[node] < 0) token_at_node_[node] = static_cast<int32_t>(i);
  }
}

int AddedTokenMatcher::LongestAt(std::string_view text) const {
  int longest = -1;
  int32_t node = 0;
  for (const char byte : text) {
    const auto edge = edges_.find(Edge(node, byte));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_at_node_[node] >= 0) longest = token_at_node_[node];
  }
  return longest;
}

void AddedTokenMatcher::Split(std::string_view text, bool parse_special,
                              std::vector<Segment>* segments) const {
  segments->clear();
  size_t plain = 0;  // where the plain text that is not yet listed begins
  size_t at = 0;
  while (at < text.size()) {
    const int found = begins_[static_cast<uint8_t>(text[at])] ? LongestAt(text.substr(at)) : -1;
    if (found < 0) {
      ++at;  // contents are UTF-8, so none begins inside a character
      continue;
    }
    const AddedToken& token = tokens_[found];
    size_t begin = at;
    size_t end = at + token.content.size();
    at = end;
    if (token.special && !parse_special) continue;
    if (token.single_word && TouchesWord(text, begin, end)) continue;
    if (token.lstrip) begin = SkipSpacesBack(text, begin, plain);
    if (token.rstrip) end = SkipSpaces(text, end);
    if (begin > plain) segments->push_back({plain, begin, kPlainText});
    segments->push_back({begin, end, token.id});
    plain = end;
  }
  if (plain < text.size()) segments->push_back({plain, text.size(), kPlainText});
}

}  // namespace mambad::text
