#include "engine/text/tokenizer_config.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/json/json_text.h"

namespace mambad::text {
namespace {

// Names of one special token each, in the order in which new ones get their ids.
constexpr const char* kTokenNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};
constexpr const char* kTokenListNames[] = {"additional_special_tokens", "extra_special_tokens"};

// An odd value is no reason not to serve: it is left out.
void LeaveOut(const JsonReader& reader, std::string_view expected, TokenizerConfig* config) {
  config->warnings.push_back(
      absl::StrCat(reader.Unexpected(expected).message(), "; it is left out"));
}

// A token is named by its text or by an object around it; nothing for what is neither.
std::optional<AddedToken> ReadNamedToken(const JsonReader& reader, TokenizerConfig* config) {
  if (reader.IsNull()) return std::nullopt;
  AddedToken token;
  if (reader.value().is_object()) {
    absl::StatusOr<AddedToken> read = ReadAddedToken(reader, kNoId);
    if (read.ok()) token = *std::move(read);
  } else if (reader.value().is_string()) {
    token.content = reader.value().get<std::string>();
  }
  if (token.content.empty() || token.content.size() > kLongestAddedToken) {
    const bool empty = reader.value().is_string() && token.content.empty();  // "" means none
    if (!empty) LeaveOut(reader, "the text of a token", config);
    return std::nullopt;
  }
  token.id = kNoId;
  token.special = true;
  return token;
}

// The special tokens by name, as the files give them.
struct NamedTokens {
  std::optional<AddedToken> single[std::size(kTokenNames)];
  std::vector<AddedToken> listed;
};

// `replaces`: a name counts though another file gave it.
void ReadTokenNames(const JsonReader& root, bool replaces, NamedTokens* names,
                    TokenizerConfig* config) {
  for (size_t i = 0; i < std::size(kTokenNames); ++i) {
    std::optional<AddedToken> token = ReadNamedToken(root.Member(kTokenNames[i]), config);
    std::optional<AddedToken>& known = names->single[i];
    if (token.has_value() && (replaces || !known.has_value())) known = std::move(token);
  }
  for (const char* name : kTokenListNames) {
    const JsonReader list = root.Member(name);
    if (!list.value().is_structured()) continue;  // an object names each of them
    for (const auto& [key, value] : list.value().items()) {
      const JsonReader entry(value, absl::StrCat(list.path(), "[", key.substr(0, 80), "]"));
      if (auto token = ReadNamedToken(entry, config)) names->listed.push_back(*std::move(token));
    }
  }
}

void KeepNames(NamedTokens names, TokenizerConfig* config) {
  if (names.single[0].has_value()) config->bos_token = names.single[0]->content;
  if (names.single[1].has_value()) config->eos_token = names.single[1]->content;
  absl::flat_hash_set<std::string> contents;
  const auto keep = [&](AddedToken token) {
    if (contents.insert(token.content).second) config->named_tokens.push_back(std::move(token));
  };
  for (std::optional<AddedToken>& token : names.single) {
    if (token.has_value()) keep(*std::move(token));
  }
  for (AddedToken& token : names.listed) keep(std::move(token));
}

void ReadOptionalBool(const JsonReader& reader, TokenizerConfig* config,
                      std::optional<bool>* value) {
  if (reader.IsNull()) return;
  if (reader.value().is_boolean()) {
    *value = reader.value().get<bool>();
  } else {
    LeaveOut(reader, "true or false", config);
  }
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

// Content -> id, as before tokenizer_config.json listed such tokens. Only those that have a name
// are special.
absl::Status ReadAddedTokensFile(const JsonReader& root, TokenizerConfig* config) {
  if (absl::Status status = root.ExpectObject(); !status.ok()) return status;
  for (const auto& [content, value] : root.value().items()) {
    const JsonReader entry(value, absl::StrCat(root.path(), "[\"", content.substr(0, 80), "\"]"));
    absl::StatusOr<int32_t> id = entry.NonNegativeInt();
    if (!id.ok()) return id.status();
    if (content.empty() || content.size() > kLongestAddedToken) {
      return entry.Unexpected(absl::StrCat("1 to ", kLongestAddedToken, " bytes of text as key"));
    }
    AddedToken token;
    token.id = *id;
    token.content = content;
    token.special = std::any_of(
        config->named_tokens.begin(), config->named_tokens.end(),
        [&content = token.content](const AddedToken& named) { return named.content == content; });
    token.normalized = !token.special;
    config->added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::Status ReadMainFile(const JsonReader& root, NamedTokens* names, TokenizerConfig* config) {
  if (absl::Status status = root.ExpectObject(); !status.ok()) return status;
  const JsonReader name = root.Member("tokenizer_class");
  if (name.value().is_string()) {
    const std::string text = name.value().get<std::string>();
    config->tokenizer_class = std::string(absl::StripSuffix(text, "Fast"));
  }
  ReadTokenNames(root, /*replaces=*/true, names, config);
  ReadOptionalBool(root.Member("add_bos_token"), config, &config->add_bos_token);
  ReadOptionalBool(root.Member("add_eos_token"), config, &config->add_eos_token);
  ReadOptionalBool(root.Member("add_prefix_space"), config, &config->add_prefix_space);
  ReadOptionalBool(root.Member("legacy"), config, &config->legacy);
  return ReadAddedTokensDecoder(root.Member("added_tokens_decoder"), config);
}

void ApplyChoice(std::optional<bool> wanted, std::optional<TokenId> id, bool at_front,
                 const std::string& what, std::vector<TokenId>* ids,
                 std::vector<std::string>* warnings) {
  if (!wanted.has_value()) return;
  if (!id.has_value()) {
    if (*wanted) {
      warnings->push_back(absl::StrCat(
          what,
          " is true, but no such token is named or it is not in the vocabulary: none is added"));
    }
    return;
  }
  const auto found = std::find(ids->begin(), ids->end(), *id);
  if (!*wanted) {
    ids->erase(std::remove(ids->begin(), ids->end(), *id), ids->end());
  } else if (found == ids->end()) {
    ids->insert(at_front ? ids->begin() : ids->end(), *id);
  }
}

}  // namespace

absl::StatusOr<AddedToken> ReadAddedToken(const JsonReader& entry, std::optional<TokenId> id) {
  if (absl::Status status = entry.ExpectObject(); !status.ok()) return status;
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
  NamedTokens names;
  bool lists_tokens = false;
  const auto read = [&](const std::string& contents, const char* name, const auto& use) {
    if (contents.empty()) return absl::OkStatus();
    const std::string source = absl::StrCat(files.source_name, "/", name);
    absl::StatusOr<Json> document = ParseJson(source, contents);
    if (!document.ok()) return document.status();
    return use(JsonReader(*document, source + ": "));
  };
  absl::Status status =
      read(files.tokenizer_config_json, "tokenizer_config.json", [&](const JsonReader& root) {
        lists_tokens = !root.Member("added_tokens_decoder").IsNull();
        return ReadMainFile(root, &names, &config);
      });
  if (!status.ok()) return status;
  status =
      read(files.special_tokens_map_json, "special_tokens_map.json", [&](const JsonReader& root) {
        if (absl::Status object = root.ExpectObject(); !object.ok()) return object;
        ReadTokenNames(root, /*replaces=*/!lists_tokens, &names, &config);
        return absl::OkStatus();
      });
  KeepNames(std::move(names), &config);
  if (status.ok() && config.added_tokens.empty()) {
    status = read(files.added_tokens_json, "added_tokens.json",
                  [&](const JsonReader& root) { return ReadAddedTokensFile(root, &config); });
  }
  if (!status.ok()) return status;
  std::stable_sort(config.added_tokens.begin(), config.added_tokens.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return config;
}

std::string LeftOutText(const TokenizerFiles& files, const AddedToken& token) {
  return absl::StrCat(files.source_name, ": token \"", absl::CHexEscape(token.content),
                      "\" has the id ", token.id, ", the model has ids from 0 to ",
                      files.model_vocabulary - 1, ": it is left out");
}

void ShortenWarnings(const std::string& source, std::vector<std::string>* warnings) {
  if (warnings->size() <= kMostWarnings) return;
  const size_t more = warnings->size() - kMostWarnings;
  warnings->resize(kMostWarnings);
  warnings->push_back(absl::StrCat(source, ": ", more, " more warnings of its text files"));
}

void ApplyBoundaries(const TokenizerConfig& config, const TokenTable& table,
                     const std::string& source, TextBoundaries* boundaries,
                     std::vector<std::string>* warnings) {
  if (config.bos_token.has_value()) boundaries->bos_id = table.IdOf(*config.bos_token);
  if (config.eos_token.has_value()) boundaries->eos_id = table.IdOf(*config.eos_token);
  const std::string file = absl::StrCat(source, "/tokenizer_config.json: ");
  ApplyChoice(config.add_bos_token, boundaries->bos_id, true, file + "add_bos_token",
              &boundaries->prefix, warnings);
  ApplyChoice(config.add_eos_token, boundaries->eos_id, false, file + "add_eos_token",
              &boundaries->suffix, warnings);
}

}  // namespace mambad::text
