// Text to token ids and back.
//
// A Tokenizer is made once from the files beside a checkpoint (or from the vocabulary inside a
// GGUF file) and never changes. Its ids are those of the model's own training tokenizer; anything
// in the files that this code does not know is an error naming it, never a silent approximation.
#ifndef MAMBAD_ENGINE_TEXT_TOKENIZER_H_
#define MAMBAD_ENGINE_TEXT_TOKENIZER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mambad::text {

using TokenId = int32_t;

// Immutable after creation; every method is safe from any thread.
class Tokenizer {
 public:
  struct EncodeOptions {
    // Adds begin- and end-of-text ids as the post-processor of tokenizer.json and `add_bos_token`,
    // `add_eos_token` of tokenizer_config.json say.
    bool add_special_tokens = true;
    // Text that spells a special token becomes its id; otherwise it is encoded as plain text.
    bool parse_special = true;
    // The text goes on where another one ended: nothing is put before its beginning, as
    // SentencePiece puts a space before a text.
    bool goes_on = false;
    // Looked at now and then; once it is true, Encode may end with CANCELLED instead of ids.
    const std::atomic<bool>* over = nullptr;
  };

  virtual ~Tokenizer();

  // `text` is UTF-8 of any length; time grows near-linearly with it. INVALID_ARGUMENT with the byte
  // offset for invalid UTF-8; RESOURCE_EXHAUSTED when a pattern of the file exceeds its step limit.
  // Characters that the vocabulary cannot express become the unknown token or, where the file names
  // none, nothing.
  virtual absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                                      const EncodeOptions& options) const = 0;

  // The prompt that a chat template wrote. Special tokens in it are such; around it stands only
  // what the template wrote, and, where the file leaves that to whoever runs it (GGUF), the
  // begin-of-text once. `over`: as in EncodeOptions.
  virtual absl::StatusOr<std::vector<TokenId>> EncodeConversation(
      std::string_view prompt, const std::atomic<bool>* over = nullptr) const;

  // Bytes of one token as they stand in running text: byte-level alphabets decoded, a byte-fallback
  // token as its byte, SentencePiece's underline as a space, a special token as its name. They
  // need not be valid UTF-8 on their own. Empty for an id without a token.
  virtual std::string TokenBytes(TokenId id) const = 0;
  // The same bytes at the end of `out`, which is the only thing that may allocate.
  virtual void AppendTokenBytes(TokenId id, std::string* out) const = 0;

  // Text of all tokens, valid UTF-8: each maximal invalid part of the bytes becomes one U+FFFD.
  // With strips_leading_space() one space at the very start is dropped.
  virtual std::string Decode(absl::Span<const TokenId> ids, bool skip_special) const;

  // Largest id of any token plus one. A model may have more (padded) rows than that.
  virtual int vocabulary_size() const = 0;
  // True for tokens that carry control, not text; false for ids without a token.
  virtual bool IsSpecial(TokenId id) const = 0;
  // By the spelling in the file, for example "Ġthe", "<0x0A>" or "<|endoftext|>".
  virtual std::optional<TokenId> TokenToId(std::string_view token) const = 0;
  // Empty for an id without a token.
  virtual std::string IdToToken(TokenId id) const = 0;
  virtual std::optional<TokenId> bos_id() const = 0;
  virtual std::optional<TokenId> eos_id() const = 0;
  // The first piece of a text loses one leading space when decoded (SentencePiece puts it there).
  virtual bool strips_leading_space() const = 0;
  // The text of a tokenizer.json that reads and writes texts as this tokenizer does, for programs
  // that know that form alone. Special tokens are found in every text. UNIMPLEMENTED: it came from
  // such a file, which says more, or it has something that cannot be said there.
  virtual absl::StatusOr<std::string> ToJson() const;
  // What was left out of the files or taken from elsewhere, one line each, for the log.
  virtual std::vector<std::string> warnings() const { return {}; }
};

// Contents of the files, empty when absent. tokenizer_json wins over sentencepiece_model, unless
// its kind is not supported and the latter can be read.
struct TokenizerFiles {
  std::string tokenizer_json;
  // Names of special tokens, flags of added ones, what is put around a text. Its word wins.
  std::string tokenizer_config_json;
  std::string special_tokens_map_json;  // names of special tokens where the former does not say
  std::string added_tokens_json;        // added tokens where neither of the former lists any
  std::string sentencepiece_model;      // bytes of tokenizer.model
  std::string source_name;              // what error messages call the place these came from
  // Ids that the model has. Added tokens beyond them (a pad that was never trained) are left out
  // with a warning; 0: any id.
  int model_vocabulary = 0;
};

// INVALID_ARGUMENT with file, key, expected and found. A file may not make this crash, hang, or
// allocate more than a small multiple of its size.
absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateTokenizer(const TokenizerFiles& files);

// Reads tokenizer.json or else tokenizer.model in `directory`, with tokenizer_config.json and
// special_tokens_map.json where present. NOT_FOUND when neither is there; a file above 64 MiB is
// refused. `model_vocabulary` as in TokenizerFiles.
absl::StatusOr<std::unique_ptr<const Tokenizer>> OpenTokenizer(const std::string& directory,
                                                               int model_vocabulary = 0);

// What a GGUF file says about its tokenizer (keys `tokenizer.ggml.*`), already type-checked.
struct BpeVocabulary {
  enum class Kind {
    kByteLevel,      // model "gpt2": byte-level BPE, pieces in GPT-2's alphabet, ranked merges
    kSentencePiece,  // model "llama": scored pieces, byte fallback
  };
  enum class Type : uint8_t {  // numbers of `tokenizer.ggml.token_type`
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
  };
  Kind kind = Kind::kByteLevel;
  std::vector<std::string> pieces;  // by id
  std::vector<float> scores;        // kSentencePiece only: as many as pieces, or none: all 0
  std::vector<Type> types;          // as many as pieces, or none: all normal
  std::vector<std::pair<std::string, std::string>> merges;  // kByteLevel only, best first
  // `tokenizer.ggml.pre` (kByteLevel only): a name that pre_tokenizer_names.h knows. Empty means
  // "default".
  std::string pre_tokenizer;
  std::optional<TokenId> bos_id, eos_id;
  std::optional<TokenId> unknown_id;  // used by kSentencePiece only
  // Defaults as the files leave them out: begin-of-text for kSentencePiece and the rules that say
  // so.
  std::optional<bool> add_bos, add_eos;
  bool add_space_prefix = true;  // kSentencePiece only
  std::string source_name;       // what error messages call the file
};

// INVALID_ARGUMENT names what is wrong; UNIMPLEMENTED: another pre-tokenizer than those known.
// Pieces may repeat (the first id keeps the spelling) and be empty (no text becomes them).
absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateTokenizerFromVocabulary(
    BpeVocabulary vocabulary);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_TOKENIZER_H_
