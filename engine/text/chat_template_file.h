// Where a model directory keeps its chat template.

#ifndef MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_FILE_H_
#define MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_FILE_H_

#include <string>

#include "absl/status/statusor.h"

namespace mambad::text {

// The Jinja source in `directory`: chat_template.jinja, or else tokenizer_config.json's. NOT_FOUND
// when there is none; INVALID_ARGUMENT with the file's name when it is not what it should be or
// larger than 16 MiB.
absl::StatusOr<std::string> ReadChatTemplateSource(const std::string& directory);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_CHAT_TEMPLATE_FILE_H_
