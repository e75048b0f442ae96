// A model that is shipped without what it shares with its teacher: one small GGUF file holds the
// tensors that were trained, the teacher (anyone can fetch it) has the rest.

#ifndef MAMBAD_TRAINER_FORMATS_MODEL_PARTS_H_
#define MAMBAD_TRAINER_FORMATS_MODEL_PARTS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace mambad::trainer {

// The file: metadata
//   general.architecture           "mambad-parts"
//   mambad.parts.version           "1"
//   mambad.parts.config, .mamba_config, .generation_config   the texts of the model's files
//   mambad.parts.sha256            of the assembled tensors: 64 digits
//   mambad.parts.proposed_tokens   of a draft that has such a list, 32-bit integers
// and tensors under the names of the model's directory: matrices Q8_0 (BF16 where rows are no whole
// blocks), what the engine keeps in float32 F32. Instead of the embedding there may be
// "embedding_projection" [teacher width, width] in F16: the embedding is the teacher's in bf16
// times it, rounded to bf16.
//
// A parameter that is not in the file is the teacher's of the same role, layer and shape, in bf16
// (float32 where the engine keeps it).

struct PackedModel {
  int64_t bytes = 0;  // of the file
  int64_t shipped_numbers = 0;
  int64_t teacher_numbers = 0;  // left out
  // |stored - trained| / |trained| over all shipped matrices: what 8 bits cost.
  double rounding = 0;
  // Likewise of the embedding as a projection; negative: it is the teacher's, or shipped whole.
  double projection_distance = -1;
  int64_t proposed_tokens = 0;  // of a draft that proposes some only
  std::string sha256;
};

// Writes the parts of the directory `model` that `teacher` (a directory or a GGUF file) has not.
// The embedding becomes a projection of the teacher's when that is within `most_distance`.
// Throws std::runtime_error.
PackedModel PackModel(const std::string& model, const std::string& teacher,
                      const std::string& output, double most_distance = 0.01);

struct AssembledModel {
  int64_t numbers = 0;
  std::string sha256;
};

// Puts the model together again: a directory with bf16 safetensors, configuration, proposed tokens
// where the file has them, and the teacher's tokenizer and chat template. Nothing is written unless
// the digest is that of the file. Throws std::runtime_error.
AssembledModel AssembleModel(const std::string& parts, const std::string& teacher,
                             const std::string& output);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_MODEL_PARTS_H_
