// Numbers as files store them -> float32. Block formats are llama.cpp's: a block holds a fixed
// count of numbers with their scales.

#ifndef MAMBAD_ENGINE_CHECKPOINT_DEQUANTISE_H_
#define MAMBAD_ENGINE_CHECKPOINT_DEQUANTISE_H_

#include <cstddef>
#include <cstdint>

#include "engine/checkpoint/checkpoint.h"

namespace mambad::checkpoint {

struct StorageBlock {
  int numbers;  // of a block; 1 for plain types
  int bytes;
};
StorageBlock BlockOf(StorageType type);
const char* StorageTypeName(StorageType type);

// `count` numbers, a multiple of the block, from `data`; no alignment needed.
void Dequantise(StorageType type, const std::byte* data, int64_t count, float* out);

uint16_t RoundToBFloat16(float value);  // to nearest even; NaN stays NaN

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_DEQUANTISE_H_
