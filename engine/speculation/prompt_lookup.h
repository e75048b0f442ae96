// Drafts from the context itself: what followed the last time the same tokens were seen. Free,
// needs no second model, and good where answers quote: edits, summaries, code, structured text.

#ifndef MAMBAD_ENGINE_SPECULATION_PROMPT_LOOKUP_H_
#define MAMBAD_ENGINE_SPECULATION_PROMPT_LOOKUP_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/options.h"

namespace mambad {

// One a sequence; engine thread. Remembers, for every run of 8, 6, 4, 3 and 2 tokens met so far,
// where it last ended.
//
// Cost: constant time a token appended (a table look-up for each run length, doubling now and
// then), whatever the text; a proposal costs its own length. Memory: 4 bytes for a token and 5
// table entries of 4 bytes at a load of at most one half: 44 to 84 bytes a token, up to twice that
// while vectors grow. It grows with the text and ends at kWindow tokens, 9 MB: of longer texts the
// older half is forgotten then, so that between kWindow / 2 and kWindow of the latest are known.
class PromptLookup {
 public:
  static constexpr std::array<int, 5> kMatchLengths = {8, 6, 4, 3, 2};
  static constexpr int64_t kWindow = int64_t{1} << 17;

  // Room for `tokens` of context, kWindow at most: until then, and beyond kWindow, Append allocates
  // nothing.
  void Reserve(int64_t tokens);

  void Append(absl::Span<const TokenId> tokens);

  // Memory held, in bytes.
  int64_t bytes() const { return 4 * static_cast<int64_t>(tokens_.capacity() + table_.capacity()); }

  // Tokens of the suffix that has been met before: the longest of kMatchLengths; 0: none, Propose
  // gives nothing.
  int match_length() const;

  // Sets `out` to what followed the most recent earlier occurrence of that suffix: `max_length`
  // tokens, or none. Where the occurrence is so recent that the context ends first, the proposal
  // goes on with itself (a period repeated).
  void Propose(int max_length, std::vector<TokenId>& out) const;

 private:
  static constexpr uint32_t kEmpty = 0xffffffff;

  void AppendOne(TokenId token);
  void NoteRuns(int64_t end);
  void ForgetOlderHalf();
  bool Matches(uint32_t entry, int kind, int64_t end) const;
  int64_t Exchange(int kind, uint64_t hash, int64_t end);
  void Grow(size_t slots);

  std::vector<TokenId> tokens_;  // the latest, at most kWindow
  std::vector<uint32_t>
      table_;  // end of a run * 8 + its kind; a power of two of slots, linear probing
  size_t entries_ = 0;
  // For each run length: where the context's last tokens last ended before; -1: nowhere.
  std::array<int64_t, kMatchLengths.size()> earlier_ = {-1, -1, -1, -1, -1};
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SPECULATION_PROMPT_LOOKUP_H_
