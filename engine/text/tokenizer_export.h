// Tokenizers as other programs read them: Hugging Face's tokenizer.json.
#ifndef MAMBAD_ENGINE_TEXT_TOKENIZER_EXPORT_H_
#define MAMBAD_ENGINE_TEXT_TOKENIZER_EXPORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text/added_tokens.h"
#include "engine/text/normalizer.h"
#include "engine/text/token_table.h"
#include "nlohmann/json_fwd.hpp"

namespace mambad::text {

// The model of byte-pair encoding, "BPE" there.
struct ExportedBpe {
  const TokenTable& table;
  // Ids of the left and the right part, best first. What becomes of them has a token.
  std::vector<std::pair<TokenId, TokenId>> merges = {};
  std::optional<TokenId> unknown = std::nullopt;
  bool fuse_unknown = false, byte_fallback = false, ignore_merges = false;
};
nlohmann::json BpeModelJson(const ExportedBpe& model);

// The pairs that SentencePiece joins, best first: both parts and the whole are pieces, and the
// whole has the higher score. `is_plain[id]`: text becomes the piece. Pieces of more than 256 bytes
// are left out.
std::vector<std::pair<TokenId, TokenId>> ScoredMerges(const std::vector<std::string>& pieces,
                                                      const std::vector<float>& scores,
                                                      const std::vector<bool>& is_plain);

// The likeliest pieces, "Unigram" there.
nlohmann::json UnigramModelJson(const std::vector<std::string>& pieces,
                                const std::vector<float>& scores, TokenId unknown,
                                bool byte_fallback);

// All but the model. Views must live until the JSON is made.
struct ExportedTokenizer {
  const TokenTable& table;
  const TextBoundaries& boundaries;
  std::vector<AddedToken> added_tokens = {};
  // Bytes of a SentencePiece model's map of characters, which is applied before `normalizer`.
  std::string_view character_map = {};
  // White space at the ends of a text goes, and of some spaces inside one stays.
  bool removes_extra_spaces = false;
  std::vector<NormalizerStep> normalizer = {};  // kUnicode, kPrepend and kReplace
  // A space's marker before the text's beginning only, instead of a kPrepend; empty: none.
  std::string_view first_marker = {};
  std::vector<std::string> split_patterns =
      {};                   // each match of one is a piece of its own, in order
  bool byte_level = false;  // spelled in GPT-2's alphabet of bytes; else with ▁
  bool strips_leading_space = false;
};

// The text of a tokenizer.json.
std::string TokenizerJson(const ExportedTokenizer& tokenizer, nlohmann::json model);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_TOKENIZER_EXPORT_H_
