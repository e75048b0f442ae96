// tokenizer.model through the SentencePiece library, special tokens found before it.
#ifndef MAMBAD_ENGINE_TEXT_SENTENCEPIECE_TOKENIZER_H_
#define MAMBAD_ENGINE_TEXT_SENTENCEPIECE_TOKENIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/tokenizer.h"

namespace mambad::text {

// Control and unknown pieces are special tokens; tokenizer_config.json's added_tokens_decoder (or
// added_tokens.json) adds others, renames reserved pieces, and says how they are found.
// Begin-of-text is put before a text unless add_bos_token is false. The model's dummy prefix comes
// before the text and, as in the models' original code, again before what follows a special token;
// with `legacy: false` in tokenizer_config.json only at the start of a text that does not begin
// with a space. `add_prefix_space` there says whether there is a prefix at all. `warnings` come
// first among the tokenizer's. INVALID_ARGUMENT with file and what is wrong.
absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateFromSentencePieceModel(
    const TokenizerFiles& files, std::vector<std::string> warnings);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_SENTENCEPIECE_TOKENIZER_H_
