// Any model that can be read -> a Hugging Face directory that trainer and daemon serve from.

#ifndef MAMBAD_TRAINER_FORMATS_CONVERT_MODEL_H_
#define MAMBAD_TRAINER_FORMATS_CONVERT_MODEL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "engine/checkpoint/checkpoint.h"
#include "trainer/formats/model_source.h"

namespace mambad::trainer {

struct ConvertOptions {
  std::string input;      // a directory or a file: OpenModelSource
  std::string output;     // made when it does not exist
  std::string tokenizer;  // TextOfModel
  // kFloat32, kFloat16 or kBFloat16; nothing: the input's own, bf16 for block formats.
  std::optional<checkpoint::StorageType> type;
  int64_t shard_bytes = 0;  // 0: one file
};

struct ConvertedModel {
  SourceKind kind = SourceKind::kModelDirectory;
  checkpoint::ModelConfig config;  // of the output
  checkpoint::StorageType type = checkpoint::StorageType::kBFloat16;
  int64_t parameters = 0;
  bool has_tokenizer = false;
};

// The same model: the state-spaces layout and GGUF files become the Hugging Face layout without
// their padding rows; a hybrid keeps its own. What the engine computes in float32 (norms, A_log, D,
// dt bias, convolution) is stored as float32. Nothing of an existing model in `output` is touched
// before the input was read and checked. Throws std::runtime_error.
ConvertedModel ConvertModel(const ConvertOptions& options);

// The configuration in the layout that is written.
checkpoint::ModelConfig WrittenConfig(checkpoint::ModelConfig config);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_CONVERT_MODEL_H_
