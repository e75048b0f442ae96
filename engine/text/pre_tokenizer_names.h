// The rules behind the names of `tokenizer.ggml.pre`: GGUF files name how text is cut before
// merging instead of saying it.
#ifndef MAMBAD_ENGINE_TEXT_PRE_TOKENIZER_NAMES_H_
#define MAMBAD_ENGINE_TEXT_PRE_TOKENIZER_NAMES_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mambad::text {

struct ByteLevelRule {
  std::vector<std::string_view> patterns;  // each cuts the pieces that the one before left
  bool nfc = false;            // the original tokenizer normalizes, the GGUF file does not say it
  bool ignore_merges = false;  // a piece that is a token is not merged
  bool add_bos = false;        // where the file does not say
};

// Nothing for a name that is not known. The empty name is "default".
std::optional<ByteLevelRule> FindByteLevelRule(std::string_view name);

// Every known name, joined by ", ", for messages.
std::string KnownByteLevelRules();

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_PRE_TOKENIZER_NAMES_H_
