#include "engine/text/sentencepiece_cuts.h"

#include <algorithm>

#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

constexpr uint32_t kSpaceMarker = 0x2581;

uint64_t Pair(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }

// As the library sees it.
uint32_t Marked(uint32_t code_point) { return code_point == ' ' ? kSpaceMarker : code_point; }

}  // namespace

SentencePieceCuts::SentencePieceCuts(const SentencePieceLibrary& library,
                                     const SentencePieceFacts& facts)
    : possible_(facts.model_type == SentencePieceFacts::kBpe),
      any_character_(facts.character_map.empty()),
      keeps_spaces_(!facts.removes_extra_spaces) {
  if (!possible_) return;
  for (int id = 0; id < library.size(); ++id) {
    if (library.TypeOf(id) != SentencePieceLibrary::Type::kText) continue;
    std::string_view rest = library.Piece(id);
    if (rest.size() == 1 && rest[0] > ' ' && rest[0] < 0x7f) guards_.push_back(rest[0]);
    for (uint32_t left = 0; !rest.empty();) {
      const uint32_t right = Marked(FirstCodePoint(rest));
      rest.remove_prefix(Utf8Length(rest));
      if (left != 0) neighbours_.insert(Pair(left, right));
      left = right;
    }
  }
}

bool SentencePieceCuts::MayStandApart(uint32_t left, uint32_t right) const {
  const auto plain = [this](uint32_t c) { return any_character_ || (c > ' ' && c < 0x7f); };
  // White space at an end may be taken away.
  if (left == ' ' ? !keeps_spaces_ : (!plain(left) || IsWhiteSpace(left))) return false;
  if (right != ' ' && (!plain(right) || IsWhiteSpace(right))) return false;
  return !neighbours_.contains(Pair(Marked(left), Marked(right)));
}

char SentencePieceCuts::GuardBefore(uint32_t right) const {
  const auto fits = [&](char guard) {
    return !neighbours_.contains(Pair(static_cast<uint32_t>(guard), Marked(right)));
  };
  const auto found = std::find_if(guards_.begin(), guards_.end(), fits);
  return found == guards_.end() ? '\0' : *found;
}

SentencePieceCuts::Part SentencePieceCuts::Next(std::string_view text, size_t begin,
                                                size_t least) const {
  if (!possible_ || text.size() - begin <= 2 * least) return {text.size()};
  // To the beginning of a character.
  size_t at = begin + least;
  while (at > begin && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  uint32_t left = FirstCodePoint(text.substr(at));
  at += Utf8Length(text.substr(at));
  while (at < text.size()) {
    const uint32_t right = FirstCodePoint(text.substr(at));
    if (MayStandApart(left, right)) {
      if (const char guard = GuardBefore(right); guard != 0) return {at, guard};
    }
    left = right;
    at += Utf8Length(text.substr(at));
  }
  return {text.size()};
}

}  // namespace mambad::text
