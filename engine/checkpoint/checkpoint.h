// A model on disk, opened for reading: a directory in one of the released layouts, or a GGUF file.
// Everything is checked at Open: after it returns OK every parameter of the table is present with
// its shape, and reads cannot fail.

#ifndef MAMBAD_ENGINE_CHECKPOINT_CHECKPOINT_H_
#define MAMBAD_ENGINE_CHECKPOINT_CHECKPOINT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/checkpoint/model_config.h"
#include "engine/checkpoint/parameter_table.h"

namespace mambad::checkpoint {

// How the numbers are stored in the file: three plain types, then llama.cpp's quantised ones.
enum class StorageType {
  kFloat32,
  kFloat16,
  kBFloat16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ1_S,
  kIQ1_M,
  kIQ2_XXS,
  kIQ2_XS,
  kIQ2_S,
  kIQ3_XXS,
  kIQ3_S,
  kIQ4_NL,
  kIQ4_XS,
  kTQ1_0,
  kTQ2_0,
  kMXFP4,
};

// The text side of a model, as contents: engine/text makes a tokenizer and a chat template of it.
struct TextFiles {
  std::string directory;  // a directory whose tokenizer files are read by engine/text; empty for a
                          // GGUF file
  // From a GGUF file:
  std::string tokenizer_model;  // "gpt2" (byte-level BPE) or "llama" (SentencePiece-like)
  std::string pre_tokenizer;    // "smollm", "llama-bpe", ...
  std::vector<std::string> pieces;
  std::vector<float> scores;  // one a piece, or empty
  std::vector<int32_t>
      piece_types;  // llama.cpp's: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  std::vector<std::string> merges;                    // "left right"
  int32_t bos_id = -1, eos_id = -1, unknown_id = -1;  // -1: not given
  int32_t padding_id = -1, separator_id = -1, classification_id = -1, mask_id = -1;  // likewise
  std::optional<bool> add_bos, add_eos, add_space_prefix;  // absent: the tokenizer's own default
  std::string chat_template;                               // Jinja source; empty: none
};

class Checkpoint {
 public:
  // `path`: a directory or a GGUF file, or what FindModel (model_place.h) takes for one. Errors
  // name the file, the tensor or key, what was expected and found, and the way out. The files stay
  // memory-mapped while the object lives.
  static absl::StatusOr<std::unique_ptr<const Checkpoint>> Open(const std::string& path);
  virtual ~Checkpoint() = default;

  const ModelConfig& config() const { return config_; }
  const ParameterTable& table() const { return table_; }
  const TextFiles& text() const { return text_; }
  // The most common storage type of the matrices, after dequantisation to bf16: what "auto" loads
  // as.
  StorageType native_type() const { return native_type_; }
  // Of the configuration and all the weights, by the definition in model_fingerprint.h: 64
  // hexadecimal digits. Reads every byte of the weights at the first call. Thread-safe.
  virtual const std::string& fingerprint() const = 0;

  // True when the file holds the parameter (only `optional` ones may be absent).
  virtual bool Has(const Parameter& parameter) const = 0;
  // Rows [row_begin, row_end) of the parameter seen as a matrix [shape[0], product of the rest],
  // converted. `out` holds exactly that many numbers. Thread-safe. Rounding to bf16 is to nearest
  // even; quantised types go through float32.
  virtual void Read(const Parameter& parameter, int64_t row_begin, int64_t row_end,
                    absl::Span<float> out) const = 0;
  virtual void ReadBFloat16(const Parameter& parameter, int64_t row_begin, int64_t row_end,
                            absl::Span<uint16_t> out) const = 0;

 protected:
  Checkpoint(ModelConfig config, ParameterTable table)
      : config_(std::move(config)), table_(std::move(table)) {}
  ModelConfig config_;
  ParameterTable table_;
  TextFiles text_;
  StorageType native_type_ = StorageType::kBFloat16;
};

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_CHECKPOINT_H_
