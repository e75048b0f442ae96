// Tokens that are found in text as they are spelled, before anything else is done to it.
#ifndef MAMBAD_ENGINE_TEXT_ADDED_TOKENS_H_
#define MAMBAD_ENGINE_TEXT_ADDED_TOKENS_H_

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/text/tokenizer.h"

namespace mambad::text {

struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;   // looked for after the normalizer, in its normalized spelling
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool single_word = false;  // only where no word character (UTS 18) touches it
};

// Longest content that is accepted, in bytes; it bounds the work at one position of a text.
inline constexpr size_t kLongestAddedToken = 1024;

// Immutable; safe from any thread.
class AddedTokenMatcher {
 public:
  static constexpr TokenId kPlainText = -1;

  struct Segment {
    size_t begin, end;
    TokenId id;  // kPlainText: no token
  };

  // Contents are not empty and at most kLongestAddedToken long; of two equal ones the first counts.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // Cuts valid UTF-8 at its added tokens: leftmost, there the longest. Without `parse_special`,
  // special tokens are plain text. Segments are in order, cover `text`, and are not empty; they
  // overlap only where a token stands in the white space that the one before it took (rstrip): it
  // counts nevertheless, and what comes after it is text again.
  void Split(std::string_view text, bool parse_special, std::vector<Segment>* segments) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  // Index into tokens_ of the longest one at the beginning of `text`, or -1.
  int LongestAt(std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::array<bool, 256> begins_ = {};             // some token begins with the byte
  absl::flat_hash_map<uint64_t, int32_t> edges_;  // trie: node << 8 | byte -> node; the root is 0
  std::vector<int32_t> token_at_node_;
};

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_ADDED_TOKENS_H_
