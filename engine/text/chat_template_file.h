// Where a model directory keeps its chat template, and the special tokens that templates name.

#ifndef MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_FILE_H_
#define MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace mambad::text {

// The chat template of `directory`, from the first of these that there is: chat_template.jinja with
// additional_chat_templates/*.jinja, of which the one called default.jinja is the template where
// the former is absent; the chat_template of tokenizer_config.json; that of chat_template.json;
// that of processor_config.json. NOT_FOUND when there is none. Other errors begin with the file's
// name: INVALID_ARGUMENT when it is not what it should be or larger than 16 MiB,
// FAILED_PRECONDITION when none of several templates is the default.
absl::StatusOr<ChatTemplate> OpenChatTemplate(const std::string& directory);

// The text of a file of at most 16 MiB. NOT_FOUND; INVALID_ARGUMENT when it cannot be read.
absl::StatusOr<std::string> ReadChatTemplateFile(const std::string& path);

// What templates can use besides the conversation: the special tokens that tokenizer_config.json
// and special_tokens_map.json in `directory` name (files that are absent or unreadable name none),
// under the names that transformers gives them; begin and end of text are `tokenizer`'s where no
// file names them. Where the two files differ, the word of the former counts when it lists the
// added tokens (added_tokens_decoder), else that of the latter: as for the tokenizer itself.
ChatTemplate::Variables ReadChatVariables(const std::string& directory, const Tokenizer& tokenizer);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_FILE_H_
