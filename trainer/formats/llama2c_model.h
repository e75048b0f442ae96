// Models of the program llama2.c: one .bin file of weights, another of its tokenizer.

#ifndef MAMBAD_TRAINER_FORMATS_LLAMA2C_MODEL_H_
#define MAMBAD_TRAINER_FORMATS_LLAMA2C_MODEL_H_

#include <cstdint>
#include <string>

#include "trainer/formats/model_source.h"
#include "trainer/formats/sentencepiece_file.h"

namespace mambad::trainer {

// The format without a magic number (llama2.c's version 0): seven int32 (width, MLP width, layers,
// query heads, key/value heads, vocabulary, context; a negative vocabulary: the head is stored
// apart), then float32 tensors, each for all layers one after another, and two tables of rotary
// factors that nothing reads. The file's size must be what the header says. Throws
// std::runtime_error; the later formats are refused by name.
ModelSource OpenLlama2cModel(const std::string& path);

// The tokenizer: int32 bytes of the longest piece, then for every piece float32 score, int32 bytes,
// bytes. Ids 0, 1, 2 are unknown, begin and end of text, 3 to 258 the bytes. Throws
// std::runtime_error.
SentencePieceFile ReadLlama2cTokenizer(const std::string& path, int64_t vocabulary);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_LLAMA2C_MODEL_H_
