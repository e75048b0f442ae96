// tokenizer.model through the SentencePiece library, special tokens found before it.
#ifndef MAMBAD_ENGINE_TEXT_SENTENCEPIECE_TOKENIZER_H_
#define MAMBAD_ENGINE_TEXT_SENTENCEPIECE_TOKENIZER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"

namespace mambad::text {

// Control and unknown pieces are special tokens; tokenizer_config.json's added_tokens_decoder adds
// others and says how they are found. Begin-of-text is put before a text unless add_bos_token is
// false. The text after a special token gets the model's dummy prefix again, as in the models'
// original code. INVALID_ARGUMENT with file and what is wrong.
absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateFromSentencePieceModel(
    const TokenizerFiles& files);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_SENTENCEPIECE_TOKENIZER_H_
