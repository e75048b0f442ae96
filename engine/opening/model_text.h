// What turns text into tokens and back: the model's tokenizer with its ends of text, and the chat
// template, the operator's or the model's own.

#ifndef MAMBAD_ENGINE_OPENING_MODEL_TEXT_H_
#define MAMBAD_ENGINE_OPENING_MODEL_TEXT_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/options.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace mambad {

struct ModelText {
  std::unique_ptr<const text::Tokenizer> tokenizer;  // null: the model has none
  std::optional<text::ChatTemplate> chat_template;   // none without a tokenizer
  text::ChatTemplate::Variables chat_variables;
  std::vector<TokenId> eos_ids;  // the configuration's, then what the tokenizer adds
  std::vector<std::string> warnings;
};

// `model`: the checkpoint's name to people; `chat_template`: a file, instead of the model's own;
// empty: that. A model without a tokenizer serves token ids. Errors: a tokenizer that is broken or
// knows more tokens than the model, an operator's file that is not there, more ends of text than a
// sequence can carry. A template that cannot be used is a warning: plain text needs none.
absl::StatusOr<ModelText> OpenModelText(const checkpoint::Checkpoint& checkpoint,
                                        const std::string& model, const std::string& chat_template);

// Tells tokenizers apart: SHA-256 over every token's bytes and kind, the ends of text, and what
// becomes of a text that tells rules of splitting and merging apart. "none" without one.
std::string TokenizerFingerprint(const text::Tokenizer* tokenizer);

}  // namespace mambad

#endif  // MAMBAD_ENGINE_OPENING_MODEL_TEXT_H_
