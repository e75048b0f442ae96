// From the parameters that a model trains to the optimizer's groups.

#ifndef MAMBAD_TRAINER_MODULES_TRAINED_PARAMETERS_H_
#define MAMBAD_TRAINER_MODULES_TRAINED_PARAMETERS_H_

#include <vector>

#include "trainer/modules/language_model.h"
#include "trainer/optimizer.h"

namespace mambad::trainer {

struct GroupOptions {
  double mixer_learning_rate = 1e-3;  // peak, of recurrent mixers
  double rest_learning_rate = 1e-4;   // peak, of everything else
  double weight_decay = 0.0;          // of parameters that WantsWeightDecay names
};

// Up to four groups, none of them empty: recurrent mixers and the rest, each with and without
// weight decay. Names, as in metrics: "mixers", "mixers_undecayed", "rest", "rest_undecayed".
std::vector<ParameterGroup> TrainedGroups(const LanguageModel& model, const GroupOptions& options);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_MODULES_TRAINED_PARAMETERS_H_
