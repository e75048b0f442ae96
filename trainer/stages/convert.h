// `trainer convert`: a model of another program -> a directory in the Hugging Face layout.

#ifndef MAMBAD_TRAINER_STAGES_CONVERT_H_
#define MAMBAD_TRAINER_STAGES_CONVERT_H_

#include <string>

#include "trainer/settings.h"

namespace mambad::trainer {

enum class ConvertedType { kAuto, kFloat32, kFloat16, kBFloat16 };

struct ConvertConfig {
  std::string input, output, tokenizer;
  ConvertedType stored = ConvertedType::kAuto;
  double shard_gigabytes = 5;
  bool overwrite = false;
};

void Describe(Settings* settings, ConvertConfig* config);

// Throws std::runtime_error. Says what was converted on standard error.
void RunConvert(const ConvertConfig& config);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_CONVERT_H_
