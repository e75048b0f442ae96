#include "engine/opening/model_text.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/digest/sha256.h"
#include "engine/text/chat_template_file.h"
#include "kernels/backend.h"

namespace mambad {
namespace {

using checkpoint::Checkpoint;

void AddEnd(std::optional<TokenId> end, int vocabulary, std::vector<TokenId>* ends) {
  const bool served = end.has_value() && *end < vocabulary;
  if (!served || std::count(ends->begin(), ends->end(), *end) > 0) return;
  ends->push_back(*end);
}

// Each request's sequences carry all of them.
absl::Status LimitEnds(const std::string& model, const std::vector<TokenId>& ends) {
  if (static_cast<int>(ends.size()) <= kernels::kMaxStopIds) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(model, ": ", ends.size(),
                   " ends of text found in its files (config.json, generation_config.json, ",
                   "the tokenizer), at most ", kernels::kMaxStopIds,
                   " expected: take some out of eos_token_id"));
}

absl::StatusOr<std::unique_ptr<const text::Tokenizer>> OpenTokenizer(const std::string& path,
                                                                     const Checkpoint& checkpoint) {
  const checkpoint::TextFiles& files = checkpoint.text();
  if (!files.directory.empty()) {
    return text::OpenTokenizer(files.directory, checkpoint.config().vocabulary);
  }
  if (files.pieces.empty()) return absl::NotFoundError("no tokenizer in the file");
  text::BpeVocabulary vocabulary;
  if (files.tokenizer_model == "gpt2") {
    vocabulary.kind = text::BpeVocabulary::Kind::kByteLevel;
  } else if (files.tokenizer_model == "llama") {
    vocabulary.kind = text::BpeVocabulary::Kind::kSentencePiece;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tokenizer.ggml.model: \"",
                                                   files.tokenizer_model,
                                                   "\" found, \"gpt2\" or \"llama\" expected"));
  }
  const auto id = [](int32_t value) {
    return value < 0 ? std::nullopt : std::optional<text::TokenId>(value);
  };
  vocabulary.pieces = files.pieces;
  vocabulary.scores = files.scores;
  for (int32_t type : files.piece_types)
    vocabulary.types.push_back(static_cast<text::BpeVocabulary::Type>(type));
  for (const std::string& merge : files.merges) {
    const size_t space = merge.find(' ', 1);  // a piece may begin with one
    if (space == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tokenizer.ggml.merges: \"", merge, "\" has no two parts"));
    }
    vocabulary.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  vocabulary.pre_tokenizer = files.pre_tokenizer;
  vocabulary.bos_id = id(files.bos_id);
  vocabulary.eos_id = id(files.eos_id);
  vocabulary.unknown_id = id(files.unknown_id);
  vocabulary.add_bos = files.add_bos;
  vocabulary.add_eos = files.add_eos;
  vocabulary.add_space_prefix = files.add_space_prefix.value_or(true);
  vocabulary.source_name = path;
  return text::CreateTokenizerFromVocabulary(std::move(vocabulary));
}

// The variables of a GGUF file's template: the special tokens that its keys number.
text::ChatTemplate::Variables VariablesOf(const checkpoint::TextFiles& files,
                                          const text::Tokenizer& tokenizer) {
  text::ChatTemplate::Variables variables;
  if (const auto id = tokenizer.bos_id()) variables.bos_token = tokenizer.IdToToken(*id);
  if (const auto id = tokenizer.eos_id()) variables.eos_token = tokenizer.IdToToken(*id);
  const std::pair<const char*, int32_t> others[] = {{"unk_token", files.unknown_id},
                                                    {"pad_token", files.padding_id},
                                                    {"sep_token", files.separator_id},
                                                    {"cls_token", files.classification_id},
                                                    {"mask_token", files.mask_id}};
  for (const auto& [name, id] : others) {
    if (id >= 0) variables.text_variables.emplace_back(name, tokenizer.IdToToken(id));
  }
  return variables;
}

absl::StatusOr<text::ChatTemplate> ParseFrom(const std::string& name, const std::string& source) {
  absl::StatusOr<text::ChatTemplate> parsed = text::ChatTemplate::Parse(source);
  if (parsed.ok()) return parsed;
  return absl::Status(parsed.status().code(), absl::StrCat(name, ": ", parsed.status().message()));
}

// A template that cannot be used is a warning, and an error for conversations only. A file that the
// operator names must be there.
absl::Status OpenChatTemplate(const Checkpoint& checkpoint, const std::string& model,
                              const std::string& chat_template, ModelText* opened_text) {
  const checkpoint::TextFiles& files = checkpoint.text();
  const text::Tokenizer& tokenizer = *opened_text->tokenizer;
  opened_text->chat_variables = files.directory.empty()
                                    ? VariablesOf(files, tokenizer)
                                    : text::ReadChatVariables(files.directory, tokenizer);
  absl::StatusOr<text::ChatTemplate> opened = absl::NotFoundError("");
  if (!chat_template.empty()) {
    const absl::StatusOr<std::string> source = text::ReadChatTemplateFile(chat_template);
    if (!source.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("chat_template: ", source.status().message()));
    }
    opened = ParseFrom(chat_template, *source);
  } else if (!files.directory.empty()) {
    opened = text::OpenChatTemplate(files.directory);
  } else if (!files.chat_template.empty()) {
    opened = ParseFrom(model, files.chat_template);
  }
  if (absl::IsNotFound(opened.status())) return absl::OkStatus();
  if (!opened.ok()) {
    opened_text->warnings.push_back(absl::StrCat(
        opened.status().message(), "; conversations are refused, plain text is served"));
    opened = text::ChatTemplate::Unusable(absl::FailedPreconditionError(
        absl::StrCat("the model's chat template cannot be used: ", opened.status().message())));
  }
  opened_text->chat_template = *std::move(opened);
  return absl::OkStatus();
}

constexpr char kProbe[] =
    " The  year\t2026: it's 3,141.59 km\n\n to Z\u00fcrich \u4f60\u597d \U0001f600; don't "
    "(re-)open_it!\r\n"
    "for(i=0;i<10;++i){ab=abab;}  \u0416\u0438\u0437\u043d\u044c  aaaaaaaa 0000000000 ";

}  // namespace

std::string TokenizerFingerprint(const text::Tokenizer* tokenizer) {
  if (tokenizer == nullptr) return "none";
  Sha256 digest;
  digest.AddText("mambad tokenizer 1");
  digest.AddNumber(static_cast<uint64_t>(tokenizer->vocabulary_size()));
  for (TokenId id = 0; id < tokenizer->vocabulary_size(); ++id) {
    digest.AddText(tokenizer->TokenBytes(id));
    digest.AddNumber(tokenizer->IsSpecial(id) ? 1 : 0);
  }
  for (const std::optional<TokenId> id : {tokenizer->bos_id(), tokenizer->eos_id()})
    digest.AddNumber(static_cast<uint64_t>(id.value_or(-1)));
  digest.AddNumber(tokenizer->strips_leading_space() ? 1 : 0);
  const auto probe = tokenizer->Encode(kProbe, {});
  if (probe.ok()) digest.AddTokens(*probe);
  return digest.FinishAsDigits();
}

absl::StatusOr<ModelText> OpenModelText(const Checkpoint& checkpoint, const std::string& model,
                                        const std::string& chat_template) {
  ModelText opened;
  opened.eos_ids = checkpoint.config().eos_ids;
  absl::StatusOr<std::unique_ptr<const text::Tokenizer>> tokenizer =
      OpenTokenizer(model, checkpoint);
  if (tokenizer.ok()) {
    opened.tokenizer = *std::move(tokenizer);
    opened.warnings = opened.tokenizer->warnings();
    AddEnd(opened.tokenizer->eos_id(), checkpoint.config().vocabulary, &opened.eos_ids);
    if (opened.tokenizer->vocabulary_size() > checkpoint.config().padded_vocabulary) {
      return absl::InvalidArgumentError(
          absl::StrCat(model, ": the tokenizer has ", opened.tokenizer->vocabulary_size(),
                       " tokens, the model ", checkpoint.config().padded_vocabulary));
    }
    absl::Status status = OpenChatTemplate(checkpoint, model, chat_template, &opened);
    if (!status.ok()) return status;
  } else if (absl::IsNotFound(tokenizer.status())) {
    opened.warnings.push_back(
        absl::StrCat(model, ": no tokenizer: only token ids are served, no text"));
  } else {
    return tokenizer.status();
  }
  if (absl::Status status = LimitEnds(model, opened.eos_ids); !status.ok()) return status;
  return opened;
}

}  // namespace mambad
