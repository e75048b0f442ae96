// Opening of what turns text into tokens and back: the tokenizer with its ends of text, and the
// chat template, the operator's or the model's own.

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/engine_core.h"
#include "engine/text/chat_template_file.h"

namespace mambad {
namespace {

using checkpoint::Checkpoint;

void AddEnd(std::optional<TokenId> end, ModelInfo& info) {
  const bool served = end.has_value() && *end < info.vocabulary;
  if (!served || std::count(info.eos_ids.begin(), info.eos_ids.end(), *end) > 0) return;
  info.eos_ids.push_back(*end);
}

// Each request's sequences carry all of them.
absl::Status LimitEnds(ModelInfo& info) {
  const auto ends = static_cast<int>(info.eos_ids.size());
  if (ends > kernels::kMaxStopIds) {
    return absl::InvalidArgumentError(
        absl::StrCat(info.path, ": ", ends,
                     " ends of text found in its files (config.json, generation_config.json, ",
                     "the tokenizer), at most ", kernels::kMaxStopIds,
                     " expected: take some out of eos_token_id"));
  }
  info.most_stop_token_ids = kernels::kMaxStopIds - ends;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const text::Tokenizer>> OpenTokenizerOf(
    const std::string& path, const Checkpoint& checkpoint) {
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

}  // namespace

absl::Status EngineCore::OpenText(const Checkpoint& checkpoint) {
  facts_.model.path = facts_.options.model;
  facts_.model.vocabulary = checkpoint.config().vocabulary;
  facts_.model.eos_ids = checkpoint.config().eos_ids;
  if (absl::Status status = OpenTokenizer(checkpoint); !status.ok()) return status;
  return LimitEnds(facts_.model);
}

// A model without a tokenizer serves token ids; one with a broken tokenizer is an error.
absl::Status EngineCore::OpenTokenizer(const Checkpoint& checkpoint) {
  absl::StatusOr<std::unique_ptr<const text::Tokenizer>> tokenizer =
      OpenTokenizerOf(facts_.options.model, checkpoint);
  if (absl::IsNotFound(tokenizer.status())) {
    AddWarnings(
        {absl::StrCat(facts_.options.model, ": no tokenizer: only token ids are served, no text")});
    return absl::OkStatus();
  }
  if (!tokenizer.ok()) return tokenizer.status();
  facts_.tokenizer = *std::move(tokenizer);
  for (std::string& warning : facts_.tokenizer->warnings()) {
    facts_.warnings.push_back(std::move(warning));
  }
  AddEnd(facts_.tokenizer->eos_id(), facts_.model);
  if (facts_.tokenizer->vocabulary_size() > checkpoint.config().padded_vocabulary) {
    return absl::InvalidArgumentError(absl::StrCat(
        facts_.options.model, ": the tokenizer has ", facts_.tokenizer->vocabulary_size(),
        " tokens, the model ", checkpoint.config().padded_vocabulary));
  }
  return OpenChatTemplate(checkpoint);
}

// A template that cannot be used is a warning, and an error for conversations only: plain text
// needs none. A file that the operator names must be there.
absl::Status EngineCore::OpenChatTemplate(const checkpoint::Checkpoint& checkpoint) {
  const checkpoint::TextFiles& files = checkpoint.text();
  facts_.chat_variables = files.directory.empty()
                              ? VariablesOf(files, *facts_.tokenizer)
                              : text::ReadChatVariables(files.directory, *facts_.tokenizer);
  absl::StatusOr<text::ChatTemplate> opened = absl::NotFoundError("");
  if (!facts_.options.chat_template.empty()) {
    const absl::StatusOr<std::string> source =
        text::ReadChatTemplateFile(facts_.options.chat_template);
    if (!source.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("chat_template: ", source.status().message()));
    }
    opened = ParseFrom(facts_.options.chat_template, *source);
  } else if (!files.directory.empty()) {
    opened = text::OpenChatTemplate(files.directory);
  } else if (!files.chat_template.empty()) {
    opened = ParseFrom(facts_.options.model, files.chat_template);
  }
  if (absl::IsNotFound(opened.status())) return absl::OkStatus();
  if (!opened.ok()) {
    facts_.warnings.push_back(absl::StrCat(opened.status().message(),
                                           "; conversations are refused, plain text is served"));
    opened = text::ChatTemplate::Unusable(absl::FailedPreconditionError(
        absl::StrCat("the model's chat template cannot be used: ", opened.status().message())));
  }
  facts_.chat_template = *std::move(opened);
  return absl::OkStatus();
}

}  // namespace mambad
