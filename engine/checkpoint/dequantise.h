// Numbers as files store them -> float32. Block formats are llama.cpp's: a block holds a fixed
// count of numbers with their scales.

#ifndef MAMBAD_ENGINE_CHECKPOINT_DEQUANTISE_H_
#define MAMBAD_ENGINE_CHECKPOINT_DEQUANTISE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "engine/checkpoint/checkpoint.h"

namespace mambad::checkpoint {

struct StorageBlock {
  int numbers;  // of a block; 1 for plain types
  int bytes;
};
StorageBlock BlockOf(StorageType type);
const char* StorageTypeName(StorageType type);

// The type that a GGUF file means by a number; nothing when it is not read here.
std::optional<StorageType> StorageTypeOfGguf(uint32_t number);
// For messages: the name of a type that is not read ("Q8_K"), and those that are ("F32, F16, ...").
std::string GgufTypeText(uint32_t number);
std::string ReadableGgufTypes();

// `count` numbers, a multiple of the block, from `data`; no alignment needed.
void Dequantise(StorageType type, const std::byte* data, int64_t count, float* out);

uint16_t RoundToBFloat16(float value);  // to nearest even; NaN stays NaN

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_DEQUANTISE_H_
