// Byte-pair encoding as tokenizer.json and GGUF describe it: added tokens, normalizer,
// pre-tokenizer, merges, begin- and end-of-text.
#ifndef MAMBAD_ENGINE_TEXT_BPE_TOKENIZER_H_
#define MAMBAD_ENGINE_TEXT_BPE_TOKENIZER_H_

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "engine/text/added_tokens.h"
#include "engine/text/bpe_merger.h"
#include "engine/text/normalizer.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/string_map.h"
#include "engine/text/token_table.h"

namespace mambad::text {

// How a piece of text becomes the symbols that are merged. A symbol is a token id, or, from the
// table's size on, a character without a token that can still become part of one.
struct BpeSymbols {
  static constexpr int32_t kNone = -1;

  bool byte_level = false;
  std::array<int32_t, 256> of_byte;              // byte_level: symbol of each byte, or kNone
  StringMap<std::string, int32_t> of_character;  // otherwise
  std::vector<std::string> tokenless;  // characters behind the symbols from the table's size on
  bool byte_fallback = false;
  std::array<TokenId, 256> byte_tokens;  // byte_fallback: token "<0xNN>" of each byte, or kNone
  std::optional<TokenId> unknown;        // for what cannot be expressed; without it: left out
  bool fuse_unknown = false;             // neighbouring unknown characters give one token

  BpeSymbols() {
    of_byte.fill(kNone);
    byte_tokens.fill(kNone);
  }
};

struct BpeParts {
  TokenTable table;  // indexed
  TextBoundaries boundaries;
  bool strips_leading_space = false;
  std::vector<AddedToken> added_tokens;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  BpeMerger merger;
  BpeSymbols symbols;
  // Pieces that become their token without merging (`ignore_merges`): bytes in running text, or
  // the spelling when not byte_level. Empty when merging is always done.
  StringMap<std::string, TokenId> whole_pieces;
  // The pre-tokenizer as ToJson tells it, where it can: patterns whose matches are pieces each.
  std::optional<std::vector<std::string>> split_patterns;
  std::vector<std::string> warnings;
};

class BpeTokenizer final : public TableTokenizer {
 public:
  // RESOURCE_EXHAUSTED or INVALID_ARGUMENT when an added token cannot be normalized.
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Create(BpeParts parts);

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  absl::StatusOr<std::string> ToJson() const override;

 private:
  struct Work;  // buffers of one Encode

  BpeTokenizer(BpeParts parts, AddedTokenMatcher raw, AddedTokenMatcher normalized);
  absl::Status EncodePlain(std::string_view text, bool at_start, const EncodeOptions& options,
                           Work* work) const;
  void EncodePiece(std::string_view piece, Work* work) const;
  void AppendUnknown(std::string_view character, std::vector<int32_t>* symbols) const;

  AddedTokenMatcher raw_tokens_, normalized_tokens_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BpeMerger merger_;
  BpeSymbols symbols_;
  StringMap<std::string, TokenId> whole_pieces_;
  const std::optional<std::vector<std::string>> split_patterns_;
};

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_BPE_TOKENIZER_H_
