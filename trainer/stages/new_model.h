// Models made from numbers.

#ifndef MAMBAD_TRAINER_STAGES_NEW_MODEL_H_
#define MAMBAD_TRAINER_STAGES_NEW_MODEL_H_

#include <string>

#include "engine/checkpoint/model_config.h"
#include "trainer/train_config.h"

namespace mambad::trainer {

// The configuration that `model` asks for, for a vocabulary of so many tokens; begin- and
// end-of-text ids from the tokenizer of `text_source`. Numbers left 0 get the customary values that
// `trainer pretrain --help` tells. Throws std::runtime_error naming the setting that does not fit.
checkpoint::ModelConfig NewModelConfiguration(const NewModelConfig& model, int64_t vocabulary,
                                              const std::string& text_source);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_NEW_MODEL_H_
