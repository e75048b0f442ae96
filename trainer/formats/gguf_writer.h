// Writes GGUF files, as far as model parts need: texts and lists of whole numbers as metadata,
// tensors in plain types and in 8-bit blocks.

#ifndef MAMBAD_TRAINER_FORMATS_GGUF_WRITER_H_
#define MAMBAD_TRAINER_FORMATS_GGUF_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "absl/types/span.h"
#include "engine/checkpoint/safetensors.h"

namespace mambad::trainer {

// `count` numbers, a multiple of 32, as llama.cpp's Q8_0: 34 bytes a block of 32, a half-precision
// scale (the largest magnitude / 127) and 32 signed bytes. Appends to `out`.
void AppendQ8Blocks(const float* numbers, int64_t count, std::vector<std::byte>* out);

using GgufMetadata = std::map<std::string, std::variant<std::string, std::vector<int32_t>>>;

// Version 3, little endian, alignment 32. `path` is written whole or not at all. The caller keeps
// the tensors' data alive; a row of a kQ8_0 tensor is whole blocks. Throws std::runtime_error.
void WriteGguf(const std::string& path, const GgufMetadata& metadata,
               absl::Span<const checkpoint::TensorToWrite> tensors);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_GGUF_WRITER_H_
