#include "engine/text/tokenizer.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "engine/text/optional_file.h"
#include "engine/text/sentencepiece_tokenizer.h"
#include "engine/text/tokenizer_json.h"
#include "engine/text/utf8.h"

namespace mambad::text {

Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::vector<TokenId>> Tokenizer::EncodeConversation(
    std::string_view prompt, const std::atomic<bool>* over) const {
  return Encode(prompt, {.add_special_tokens = false, .parse_special = true, .over = over});
}

absl::StatusOr<std::string> Tokenizer::ToJson() const {
  return absl::UnimplementedError("this tokenizer cannot be written as a tokenizer.json");
}

std::string Tokenizer::Decode(absl::Span<const TokenId> ids, bool skip_special) const {
  std::string bytes;
  for (const TokenId id : ids) {
    if (!skip_special || !IsSpecial(id)) AppendTokenBytes(id, &bytes);
  }
  std::string_view rest = bytes;
  if (strips_leading_space() && !rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  std::string text;
  text.reserve(rest.size());
  AppendValidUtf8(rest, /*final=*/true, &text);
  return text;
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateTokenizer(const TokenizerFiles& files) {
  std::vector<std::string> warnings;
  if (!files.tokenizer_json.empty()) {
    auto tokenizer = CreateFromTokenizerJson(files);
    if (!absl::IsUnimplemented(tokenizer.status())) return tokenizer;
    if (files.sentencepiece_model.empty()) {
      return absl::UnimplementedError(
          absl::StrCat(tokenizer.status().message(),
                       "; with tokenizer.json moved elsewhere the model serves token ids"));
    }
    warnings.push_back(
        absl::StrCat(tokenizer.status().message(), "; tokenizer.model beside it is read instead"));
  }
  if (!files.sentencepiece_model.empty()) {
    return CreateFromSentencePieceModel(files, std::move(warnings));
  }
  return absl::NotFoundError(absl::StrCat(
      files.source_name, ": expected tokenizer.json or tokenizer.model, found neither"));
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> OpenTokenizer(const std::string& directory,
                                                               int model_vocabulary) {
  const std::filesystem::path root(directory);
  TokenizerFiles files;
  files.model_vocabulary = model_vocabulary;
  files.source_name = directory;
  absl::Status status = ReadOptionalFile(root / "tokenizer.json", &files.tokenizer_json);
  const std::pair<const char*, std::string*> others[] = {
      {"tokenizer.model", &files.sentencepiece_model},
      {"tokenizer_config.json", &files.tokenizer_config_json},
      {"special_tokens_map.json", &files.special_tokens_map_json},
      {"added_tokens.json", &files.added_tokens_json}};
  for (const auto& [name, contents] : others) {
    if (!status.ok()) return status;
    status = ReadOptionalFile(root / name, contents);
    // Beside a tokenizer.json it may never be needed.
    if (contents == &files.sentencepiece_model && !files.tokenizer_json.empty()) {
      if (!status.ok()) contents->clear();
      status = absl::OkStatus();
    }
  }
  if (!status.ok()) return status;
  return CreateTokenizer(files);
}

}  // namespace mambad::text
