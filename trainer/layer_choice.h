// Which layers of a Transformer give up attention.

#ifndef MAMBAD_TRAINER_LAYER_CHOICE_H_
#define MAMBAD_TRAINER_LAYER_CHOICE_H_

#include <vector>

#include "engine/checkpoint/model_config.h"
#include "trainer/initialize.h"
#include "trainer/train_config.h"

namespace mambad::trainer {

// The layers that are recurrent when `choice` is applied to a model of so many layers, ascending:
// those named, or by the published interleave (MambaInLlama): attention is kept at layer l where
//   75 %: l mod 4 != 0    50 %: l mod 2 = 1    25 %: l mod 4 = 3    12.5 %: l mod 8 = 7    0 %:
//   none
// so that each share's replaced layers contain those of the share before. Throws
// std::runtime_error: another percentage, a layer outside the model or named twice.
std::vector<int> RecurrentLayers(const LayerChoiceConfig& choice, int layers);

// Those of `config` that are recurrent already.
std::vector<int> RecurrentLayersOf(const checkpoint::ModelConfig& config);

InitializeOptions OptionsFrom(const MixerStartConfig& start, std::vector<int> recurrent_layers,
                              int64_t seed);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_LAYER_CHOICE_H_
