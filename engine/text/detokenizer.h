// Turns a stream of token ids into a stream of text, and ends it at a stop string.
#ifndef MAMBAD_ENGINE_TEXT_DETOKENIZER_H_
#define MAMBAD_ENGINE_TEXT_DETOKENIZER_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/text/tokenizer.h"

namespace mambad::text {

// One per sequence; used by one thread at a time. What the calls release, joined, is what
// Tokenizer::Decode gives for all tokens at once, however they were split over the calls, but cut
// at the stop string that completes first (of those that complete at the same byte, the longest).
// Once its buffers have grown to the longest call, it allocates nothing.
//
// A stop string is looked for in the text that is released and, where special tokens are left out
// of that, also in the text with them: "<|im_end|>" and "b<|im_end|>" match the token <|im_end|> as
// well as its spelling. Of a token that is left out it must cover all or nothing.
class Detokenizer {
 public:
  struct Options {
    bool skip_special = true;
    std::vector<std::string> stop_strings = {};  // not empty, valid UTF-8
    // The text ends after the stop string, not before it: then special tokens in it are shown.
    bool include_stop = false;
    bool at_start_of_text = true;  // false: the first token keeps its leading space
  };

  static constexpr int kNoStop = -1;

  struct Output {
    std::string_view text;  // newly released, valid UTF-8; good until the next call
    int stop = kNoStop;     // index of the stop string that matched
    // Of the tokens of this call, how many come up to the end of the text; the one that completes
    // the stop string is the last. All of them without a match.
    size_t kept_tokens = 0;
  };

  // `tokenizer` must outlive the result. INVALID_ARGUMENT for an empty or non-UTF-8 stop string.
  static absl::StatusOr<Detokenizer> Create(const Tokenizer* tokenizer, Options options);

  // Before the first Push: the text goes on from these tokens, at the end of which a character may
  // be unfinished. Its bytes belong to the text, as what finishes it comes with it.
  void GoOnFrom(absl::Span<const TokenId> before);

  // Text that could be the beginning of a stop string, and bytes of a character that is not whole,
  // are held back. After a match, further calls release nothing and keep no token.
  Output Push(absl::Span<const TokenId> ids);

  // Releases what is held back; an unfinished character becomes U+FFFD. To be called once, last.
  Output Finish();

  bool stopped() const { return stop_ != kNoStop; }

 private:
  struct StopMatcher {
    std::string text;
    std::vector<size_t> borders;  // Knuth-Morris-Pratt: longest border of each prefix of `text`
    size_t matched = 0;           // length of the longest prefix that ends where the text does
    size_t matched_whole = 0;     // the same in the text with the special tokens that are left out
    // True when `text` is complete in the one of the two that `count` belongs to.
    bool Feed(char byte, size_t* count) const;
  };

  // A special token that is left out of the text: where it stands in the text with it.
  struct HiddenToken {
    size_t begin, end;
  };

  Detokenizer(const Tokenizer* tokenizer, Options options);
  // True when a stop string completed, of these three.
  bool AppendToken(TokenId id);
  bool Advance(bool final);  // moves whole characters from `bytes_` to `text_`
  bool AppendHidden(TokenId id);
  bool FindStop(size_t from);
  void Choose(size_t stop, size_t visible_bytes);
  void Cut(size_t end);
  // Of the last `length` bytes of the text with special tokens: how many are shown; nothing when
  // they begin inside of a hidden token.
  std::optional<size_t> Visible(size_t length, bool may_begin_inside) const;
  void ForgetHidden();
  Output Release(size_t kept_tokens, bool final);

  const Tokenizer* tokenizer_;
  bool skip_special_, include_stop_, strip_space_;
  std::vector<StopMatcher> stops_;
  std::string bytes_;  // not yet turned into text
  std::string text_;   // valid; [0, released_) was given out by the last call
  size_t released_ = 0;
  std::string hidden_bytes_;         // of one token
  std::vector<HiddenToken> hidden_;  // that a stop string may still reach back to
  size_t whole_length_ = 0;          // of the text with special tokens, since the start
  size_t longest_stop_ = 0;
  int stop_ = kNoStop;
  size_t stop_visible_ = 0;  // how many bytes of the text the stop string takes
  bool over_ = false;        // matched and reported
};

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_DETOKENIZER_H_
