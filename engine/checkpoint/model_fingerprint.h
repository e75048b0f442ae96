// The fingerprint of a model: tells whether two files hold the same model, for receipts, sessions
// and logs.
//
// Definition, version 2, which no release may change without another number in the first line. It
// is the SHA-256 of these bytes, where T(x) is the length of the text x as 8 bytes, little endian,
// and then x:
//
// - "mambad model fingerprint 2\n"
// - T(configuration): config.json and mamba_config.json as canonical JSON (keys in order, no
//   blanks), one after the other; of a GGUF file "key=value;" of its metadata but general.* (except
//   general.architecture), tokenizer.*, quantize.* and split.*
// - for every parameter, in ascending order of the names' bytes:
//   - T(name), for instance "model.norm.weight"
//   - T(type) as in the file's layout, for instance "BF16"
//   - number of dimensions, dimensions: 8 bytes each, little endian
//   - the SHA-256 of each piece of its data, pieces of 8 MiB (the last as long as is left)
//
// Every byte counts, and nobody can make two models alike. Pieces may be hashed by several threads.
// How a model is cut into files is no part of it; tokenizers are not either.

#ifndef MAMBAD_ENGINE_CHECKPOINT_MODEL_FINGERPRINT_H_
#define MAMBAD_ENGINE_CHECKPOINT_MODEL_FINGERPRINT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace mambad::checkpoint {

struct FingerprintedTensor {
  std::string name, type;
  std::vector<int64_t> shape;
  absl::Span<const std::byte> data;  // as in the file
};

// 64 hexadecimal digits. `tensors` in any order. Takes as many threads as there are cores, up to
// 16, while it runs.
std::string ModelFingerprint(const std::string& configuration,
                             std::vector<FingerprintedTensor> tensors);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_MODEL_FINGERPRINT_H_
