// A model as it comes from elsewhere, opened for reading.

#ifndef MAMBAD_TRAINER_FORMATS_MODEL_SOURCE_H_
#define MAMBAD_TRAINER_FORMATS_MODEL_SOURCE_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"

namespace mambad::trainer {

enum class SourceKind {
  kModelDirectory,    // safetensors, in any layout that engine/checkpoint reads
  kPytorchDirectory,  // pytorch_model.bin, or shards with pytorch_model.bin.index.json
  kGguf,
  kLlama2c,
};
const char* SourceKindName(SourceKind kind);

// Bytes of tensors that lay otherwise in the file than a checkpoint has them.
using RearrangedTensors = std::vector<std::unique_ptr<std::byte[]>>;

// Move-only.
struct ModelSource {
  SourceKind kind = SourceKind::kModelDirectory;
  std::string path;
  RearrangedTensors rearranged;  // outlives the checkpoint, which reads them
  std::unique_ptr<const checkpoint::Checkpoint> checkpoint;
};

// What the path leads to, told by its contents: a directory (safetensors first), a GGUF file or a
// llama2.c .bin file. Throws std::runtime_error with file, tensor, what was expected and found.
ModelSource OpenModelSource(const std::string& path);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_MODEL_SOURCE_H_
