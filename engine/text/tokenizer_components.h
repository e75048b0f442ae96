// The parts of tokenizer.json around its model: normalizer, pre-tokenizer, decoder, post-processor.
// Each reader takes the component (null when absent) and refuses by name what it does not know.
#ifndef MAMBAD_ENGINE_TEXT_TOKENIZER_COMPONENTS_H_
#define MAMBAD_ENGINE_TEXT_TOKENIZER_COMPONENTS_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/text/json_reader.h"
#include "engine/text/normalizer.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer.h"

namespace mambad::text {

absl::StatusOr<std::vector<NormalizerStep>> ReadNormalizer(const JsonReader& normalizer);

struct PreTokenizerRule {
  std::vector<PreTokenizerStep> steps;
  bool byte_level = false;  // pieces are spelled in GPT-2's byte alphabet afterwards
};
// `prefix_space`: what counts instead of add_prefix_space of a ByteLevel that stands alone.
absl::StatusOr<PreTokenizerRule> ReadPreTokenizer(const JsonReader& pre_tokenizer,
                                                  std::optional<bool> prefix_space = {});

// How the spelling of a token becomes its bytes.
struct DecoderRule {
  bool present = false;
  bool byte_level = false;
  bool byte_fallback = false;  // "<0xNN>" is a byte
  bool joins = false;          // Fuse: what follows sees all tokens as one
  bool strips_leading_space = false;
  std::vector<std::pair<std::string, std::string>> replacements;
};
absl::StatusOr<DecoderRule> ReadDecoder(const JsonReader& decoder);

// Bytes in running text of a token of the vocabulary.
std::string DecodeSpelling(const DecoderRule& rule, std::string_view spelling);

// The byte that "<0xNN>" stands for, or -1.
int ByteFallbackValue(std::string_view spelling);
std::string ByteFallbackSpelling(int byte);

struct PostProcessorRule {
  std::vector<TokenId> prefix, suffix;
};
absl::StatusOr<PostProcessorRule> ReadPostProcessor(const JsonReader& post_processor);

// A pre-tokenizer step that cuts at every match of `pattern`, which must compile.
absl::StatusOr<PreTokenizerStep> IsolateMatches(std::string_view pattern);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_TOKENIZER_COMPONENTS_H_
