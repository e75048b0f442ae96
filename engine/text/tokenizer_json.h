// tokenizer.json with a BPE model, as the Hugging Face `tokenizers` library writes it.
#ifndef MAMBAD_ENGINE_TEXT_TOKENIZER_JSON_H_
#define MAMBAD_ENGINE_TEXT_TOKENIZER_JSON_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"

namespace mambad::text {

// INVALID_ARGUMENT with the path of what is wrong or not supported.
absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateFromTokenizerJson(
    const TokenizerFiles& files);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_TOKENIZER_JSON_H_
