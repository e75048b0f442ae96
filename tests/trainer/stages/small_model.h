// A Llama small enough for tests of stages, in a directory.

#ifndef MAMBAD_TESTS_TRAINER_STAGES_SMALL_MODEL_H_
#define MAMBAD_TESTS_TRAINER_STAGES_SMALL_MODEL_H_

#include <cstdint>
#include <string>

#include "tests/trainer/small_text.h"
#include "trainer/modules/language_model.h"
#include "trainer/stages/new_model.h"

namespace mambad::testing {

// One layer of width 16 and random weights of `seed`, in fp32, into a directory that holds the
// small tokenizer (small_text.h).
inline void WriteSmallModel(const std::string& directory, uint64_t seed) {
  trainer::NewModelConfig numbers;
  numbers.family = trainer::NewModelConfig::Family::kLlama;
  numbers.width = 16;
  numbers.layers = 1;
  numbers.query_heads = 2;
  trainer::LanguageModel::Create(
      trainer::NewModelConfiguration(numbers, kSmallVocabulary, directory), seed, at::kCPU,
      at::kFloat)
      ->Save(directory, checkpoint::StorageType::kFloat32, "");
}

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_TRAINER_STAGES_SMALL_MODEL_H_
