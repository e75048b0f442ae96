// Opening of the chat template: the operator's, or the model's own.

#include "absl/strings/str_cat.h"
#include "engine/engine_core.h"
#include "engine/text/chat_template_file.h"

namespace mambad {
namespace {

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
