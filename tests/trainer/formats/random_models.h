// Random models as pytorch_model.bin, and the comparison of two checkpoints.

#ifndef MAMBAD_TESTS_TRAINER_FORMATS_RANDOM_MODELS_H_
#define MAMBAD_TESTS_TRAINER_FORMATS_RANDOM_MODELS_H_

#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/support/checkpoint_writer.h"

namespace mambad::trainer {

std::string FloatBytes(const std::vector<float>& values);

// The model that SaveRandomCheckpoint writes, in `files` PyTorch files of the type of `options`.
void SavePytorchCheckpoint(const checkpoint::TestDirectory& directory,
                           const support::RandomModelOptions& options, int files);

// Every parameter of `found` holds what the one of the same role and layer in `expected` does; rows
// beyond the vocabulary may be missing. `rounded`: matrices of `found` are those of `expected` in
// bf16.
void ExpectSameNumbers(const checkpoint::Checkpoint& expected, const checkpoint::Checkpoint& found,
                       bool rounded = false);

}  // namespace mambad::trainer

#endif  // MAMBAD_TESTS_TRAINER_FORMATS_RANDOM_MODELS_H_
