#include "engine/text/tokenizer_config.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace mambad::text {
namespace {

// A token is named by its text or by an object around it.
absl::Status ReadTokenName(const JsonReader& reader, std::optional<std::string>* name) {
  if (reader.IsNull() || name->has_value()) return absl::OkStatus();
  const JsonReader content = reader.value().is_object() ? reader.Member("content") : reader;
  absl::StatusOr<std::string> text = content.String();
  if (!text.ok()) return text.status();
  *name = *std::move(text);
  return absl::OkStatus();
}

absl::Status ReadOptionalBool(const JsonReader& reader, std::optional<bool>* value) {
  if (reader.IsNull()) return absl::OkStatus();
  absl::StatusOr<bool> read = reader.BoolOr(false);
  if (!read.ok()) return read.status();
  *value = *read;
  return absl::OkStatus();
}

absl::Status ReadTokenNames(const JsonReader& root, TokenizerConfig* config) {
  if (absl::Status status = root.ExpectObject(); !status.ok()) return status;
  absl::Status status = ReadTokenName(root.Member("bos_token"), &config->bos_token);
  if (status.ok()) status = ReadTokenName(root.Member("eos_token"), &config->eos_token);
  return status;
}

absl::Status ReadAddedTokensDecoder(const JsonReader& decoder, TokenizerConfig* config) {
  if (decoder.IsNull()) return absl::OkStatus();
  if (absl::Status status = decoder.ExpectObject(); !status.ok()) return status;
  for (const auto& [key, value] : decoder.value().items()) {
    const JsonReader entry(value, absl::StrCat(decoder.path(), ".", key.substr(0, 20)));
    TokenId id = 0;
    if (!absl::SimpleAtoi(key, &id) || id < 0) return entry.Unexpected("a token id as key");
    absl::StatusOr<AddedToken> token = ReadAddedToken(entry, id);
    if (!token.ok()) return token.status();
    config->added_tokens.push_back(*std::move(token));
  }
  return absl::OkStatus();
}

void Remove(std::optional<TokenId> id, std::vector<TokenId>* ids) {
  if (id.has_value()) ids->erase(std::remove(ids->begin(), ids->end(), *id), ids->end());
}

absl::Status ApplyChoice(std::optional<bool> wanted, std::optional<TokenId> id, bool at_front,
                         const std::string& what, std::vector<TokenId>* ids) {
  if (!wanted.has_value()) return absl::OkStatus();
  if (!*wanted) {
    Remove(id, ids);
    return absl::OkStatus();
  }
  if (!id.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is true, but no such token is named or it is not in the vocabulary"));
  }
  if (std::find(ids->begin(), ids->end(), *id) == ids->end()) {
    ids->insert(at_front ? ids->begin() : ids->end(), *id);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AddedToken> ReadAddedToken(const JsonReader& entry, std::optional<TokenId> id) {
  absl::Status status = entry.ExpectMembers(
      {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special", "__type"});
  if (!status.ok()) return status;
  AddedToken token;
  if (id.has_value()) {
    token.id = *id;
  } else {
    absl::StatusOr<int32_t> read = entry.Member("id").NonNegativeInt();
    if (!read.ok()) return read.status();
    token.id = *read;
  }
  absl::StatusOr<std::string> content = entry.Member("content").String();
  if (!content.ok()) return content.status();
  if (content->empty() || content->size() > kLongestAddedToken) {
    return entry.Member("content").Unexpected(
        absl::StrCat("1 to ", kLongestAddedToken, " bytes of text"));
  }
  token.content = *std::move(content);
  const std::pair<const char*, bool*> flags[] = {{"single_word", &token.single_word},
                                                 {"lstrip", &token.lstrip},
                                                 {"rstrip", &token.rstrip},
                                                 {"special", &token.special}};
  for (const auto& [name, flag] : flags) {
    absl::StatusOr<bool> value = entry.Member(name).BoolOr(false);
    if (!value.ok()) return value.status();
    *flag = *value;
  }
  absl::StatusOr<bool> normalized = entry.Member("normalized").BoolOr(!token.special);
  if (!normalized.ok()) return normalized.status();
  token.normalized = *normalized;
  return token;
}

absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const TokenizerFiles& files) {
  TokenizerConfig config;
  if (!files.tokenizer_config_json.empty()) {
    const std::string source = absl::StrCat(files.source_name, "/tokenizer_config.json");
    absl::StatusOr<Json> document = ParseJson(files.tokenizer_config_json, source);
    if (!document.ok()) return document.status();
    const JsonReader root(*document, source + ": ");
    absl::Status status = ReadTokenNames(root, &config);
    if (status.ok()) status = ReadOptionalBool(root.Member("add_bos_token"), &config.add_bos_token);
    if (status.ok()) status = ReadOptionalBool(root.Member("add_eos_token"), &config.add_eos_token);
    if (status.ok()) status = ReadAddedTokensDecoder(root.Member("added_tokens_decoder"), &config);
    if (!status.ok()) return status;
  }
  if (!files.special_tokens_map_json.empty()) {
    const std::string source = absl::StrCat(files.source_name, "/special_tokens_map.json");
    absl::StatusOr<Json> document = ParseJson(files.special_tokens_map_json, source);
    if (!document.ok()) return document.status();
    if (absl::Status status = ReadTokenNames(JsonReader(*document, source + ": "), &config);
        !status.ok()) {
      return status;
    }
  }
  return config;
}

absl::Status ApplyBoundaries(const TokenizerConfig& config, const TokenTable& table,
                             const std::string& source, TextBoundaries* boundaries) {
  if (config.bos_token.has_value()) boundaries->bos_id = table.IdOf(*config.bos_token);
  if (config.eos_token.has_value()) boundaries->eos_id = table.IdOf(*config.eos_token);
  absl::Status status = ApplyChoice(config.add_bos_token, boundaries->bos_id, true,
                                    absl::StrCat(source, "/tokenizer_config.json: add_bos_token"),
                                    &boundaries->prefix);
  if (status.ok()) {
    status = ApplyChoice(config.add_eos_token, boundaries->eos_id, false,
                         absl::StrCat(source, "/tokenizer_config.json: add_eos_token"),
                         &boundaries->suffix);
  }
  return status;
}

}  // namespace mambad::text
