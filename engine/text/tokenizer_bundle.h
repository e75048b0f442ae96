// The files with which other programs read and write texts as a served model does.
#ifndef MAMBAD_ENGINE_TEXT_TOKENIZER_BUNDLE_H_
#define MAMBAD_ENGINE_TEXT_TOKENIZER_BUNDLE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace mambad::text {

struct BundledFile {
  std::string name, contents;
};

// tokenizer.json, which is the one in the directory `model_path` if there is one, else made from
// `tokenizer`; and tokenizer_config.json, the directory's with `chat_template` in it (nullptr or
// unusable: none), else made from `variables`. Errors as Tokenizer::ToJson and ReadOptionalFile.
absl::StatusOr<std::vector<BundledFile>> BundleTokenizer(const std::string& model_path,
                                                         const Tokenizer& tokenizer,
                                                         const ChatTemplate* chat_template,
                                                         const ChatTemplate::Variables& variables);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_TOKENIZER_BUNDLE_H_
