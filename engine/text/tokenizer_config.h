// What tokenizer_config.json, special_tokens_map.json and added_tokens.json add to a tokenizer.
#ifndef MAMBAD_ENGINE_TEXT_TOKENIZER_CONFIG_H_
#define MAMBAD_ENGINE_TEXT_TOKENIZER_CONFIG_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/text/added_tokens.h"
#include "engine/text/json_reader.h"
#include "engine/text/token_table.h"

namespace mambad::text {

struct TokenizerConfig {
  std::string tokenizer_class;  // without "Fast" at its end
  std::optional<std::string> bos_token, eos_token;
  std::optional<bool> add_bos_token, add_eos_token, add_prefix_space, legacy;
  // `added_tokens_decoder`, or added_tokens.json where there is none. Ascending ids.
  std::vector<AddedToken> added_tokens;
  // Special tokens by name (bos_token, pad_token, additional_special_tokens, ...), each content
  // once, in the order in which new ones get their ids. Their ids are not known here: kNoId.
  // special_tokens_map.json has the last word unless tokenizer_config.json lists its tokens.
  std::vector<AddedToken> named_tokens;
  std::vector<std::string> warnings;
};

inline constexpr TokenId kNoId = -1;

// INVALID_ARGUMENT with the path of what is wrong. Members that concern other things are ignored; a
// member of these that has an odd value is left out with a warning.
absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const TokenizerFiles& files);

// An entry of `added_tokens` (id inside) or `added_tokens_decoder` (id given).
absl::StatusOr<AddedToken> ReadAddedToken(const JsonReader& entry, std::optional<TokenId> id);

// The warning about a token that the model has no row for.
std::string LeftOutText(const TokenizerFiles& files, const AddedToken& token);

// Keeps the first of many warnings and says how many more there were: there may be thousands.
inline constexpr size_t kMostWarnings = 20;
void ShortenWarnings(const std::string& source, std::vector<std::string>* warnings);

// Sets bos_id and eos_id from the configuration and makes prefix and suffix obey an explicit
// add_bos_token and add_eos_token; where such a token is wanted and there is none, `warnings` says
// so.
void ApplyBoundaries(const TokenizerConfig& config, const TokenTable& table,
                     const std::string& source, TextBoundaries* boundaries,
                     std::vector<std::string>* warnings);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_TOKENIZER_CONFIG_H_
