// What tokenizer_config.json and special_tokens_map.json add to a tokenizer.
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
  std::optional<std::string> bos_token, eos_token;
  std::optional<bool> add_bos_token, add_eos_token;
  std::vector<AddedToken> added_tokens;
};

// INVALID_ARGUMENT with the path of what is wrong. Members that concern other things are ignored.
absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const TokenizerFiles& files);

// An entry of `added_tokens` (id inside) or `added_tokens_decoder` (id given).
absl::StatusOr<AddedToken> ReadAddedToken(const JsonReader& entry, std::optional<TokenId> id);

// Sets bos_id and eos_id from the configuration and makes prefix and suffix obey an explicit
// add_bos_token and add_eos_token. INVALID_ARGUMENT when begin-of-text is wanted and unknown.
absl::Status ApplyBoundaries(const TokenizerConfig& config, const TokenTable& table,
                             const std::string& source, TextBoundaries* boundaries);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_TOKENIZER_CONFIG_H_
