// What pretraining and fine-tuning share: a whole model learns to write its data's text.

#ifndef MAMBAD_TRAINER_STAGES_TEXT_TRAINING_H_
#define MAMBAD_TRAINER_STAGES_TEXT_TRAINING_H_

#include <string>

#include "trainer/stages/stage_run.h"

namespace mambad::trainer {

// Throws std::runtime_error when a model of that configuration cannot be trained in the memory that
// is free. Called before it is loaded.
void CheckTextTraining(const StageRun& run, const checkpoint::ModelConfig& model,
                       const DataConfig& data, const LoopConfig& loop);

// Trains all of `model` with cross entropy and finishes the stage. `text_source`: the directory
// whose tokenizer reads the text and goes with the model. Recurrent mixers learn at the optimizer's
// rate, everything else at `rest_learning_rate`.
void TrainOnText(const StageRun& run, LanguageModel* model, const std::string& text_source,
                 const DataConfig& data, const LoopConfig& loop, const OptimizerConfig& optimizer,
                 double rest_learning_rate);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_TEXT_TRAINING_H_
