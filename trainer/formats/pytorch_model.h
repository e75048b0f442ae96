// Model directories whose weights are PyTorch's own files: pytorch_model.bin, a zip archive with a
// pickle in it.

#ifndef MAMBAD_TRAINER_FORMATS_PYTORCH_MODEL_H_
#define MAMBAD_TRAINER_FORMATS_PYTORCH_MODEL_H_

#include <map>
#include <string>

#include "absl/types/span.h"
#include "engine/checkpoint/safetensors.h"
#include "trainer/formats/model_source.h"

namespace mambad::trainer {

// The tensors of one file's bytes: their data point into `bytes`, or into `rearranged` where the
// file has a transposed or cut view. Tensors of types that no checkpoint is read from (integers,
// doubles) go to `ignored` with the type's name.
struct PytorchTensors {
  std::map<std::string, checkpoint::StoredTensor> tensors;
  std::map<std::string, std::string> ignored;
};
PytorchTensors ReadPytorchFile(const std::string& source, absl::Span<const std::byte> bytes,
                               RearrangedTensors* rearranged);

bool IsPytorchDirectory(const std::string& directory);

// The format before PyTorch 1.6, which is no archive.
bool IsLegacyPytorchFile(absl::Span<const std::byte> bytes);

// pytorch_model.bin, or the shards that pytorch_model.bin.index.json names; config.json and its
// companions as engine/checkpoint reads them. Throws std::runtime_error.
ModelSource OpenPytorchDirectory(const std::string& directory);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_PYTORCH_MODEL_H_
