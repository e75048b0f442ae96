// Where a long text may be cut so that its parts, tokenized one by one, give the tokens of the
// whole: the library needs some two hundred bytes of memory for each byte it is given at once, and
// cannot be interrupted.

#ifndef MAMBAD_ENGINE_TEXT_SENTENCEPIECE_CUTS_H_
#define MAMBAD_ENGINE_TEXT_SENTENCEPIECE_CUTS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "engine/text/sentencepiece_library.h"
#include "engine/text/sentencepiece_model.h"

namespace mambad::text {

// Byte-pair models only: merging never joins two characters that stand side by side in no piece, so
// that what is left and right of such a place does not know of each other. Elsewhere there are no
// cuts. Immutable.
class SentencePieceCuts {
 public:
  struct Part {
    size_t end = 0;  // in the text; the next part begins there
    // The next part is tokenized behind this character, which keeps the library from taking it for
    // the beginning of a text; its own tokens come first, and are dropped.
    char guard = 0;
  };

  SentencePieceCuts(const SentencePieceLibrary& library, const SentencePieceFacts& facts);

  // The part of `text` (valid UTF-8) that begins at `begin`: to the first cut after `least` bytes,
  // or to the end.
  Part Next(std::string_view text, size_t begin, size_t least) const;

  // Whether every text of sense has cuts, so that one without them is not worth its memory.
  bool reliable() const { return possible_ && any_character_ && !guards_.empty(); }

 private:
  bool MayStandApart(uint32_t left, uint32_t right) const;
  char GuardBefore(uint32_t right) const;  // 0: there is none

  bool possible_ = false;
  bool any_character_ = false;  // no normalization changes characters; else ASCII alone is sure
  bool keeps_spaces_ = false;
  absl::flat_hash_set<uint64_t> neighbours_;  // left << 32 | right, in some piece
  std::string guards_;                        // ASCII characters that are pieces
};

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_SENTENCEPIECE_CUTS_H_
