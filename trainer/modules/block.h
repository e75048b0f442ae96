// One block of a model around whatever its mixer does.

#ifndef MAMBAD_TRAINER_MODULES_BLOCK_H_
#define MAMBAD_TRAINER_MODULES_BLOCK_H_

#include <ATen/core/Tensor.h>

#include <functional>

#include "trainer/modules/language_model.h"

namespace mambad::trainer {

// What runs between two blocks: the residual stream (wide [M, width]), and what is still to be
// added to it ([M, width] in the compute type, or undefined): the next norm adds as it reads.
struct BlockStream {
  at::Tensor residual, delta;
};

// From normed input [M, width] to what is added to the residual stream.
using MixerCall = std::function<at::Tensor(const at::Tensor& input)>;

// Norm and mixer, then norm and MLP where there is one. The result's delta is defined.
BlockStream RunBlock(const LanguageModel& model, int layer, const BlockStream& input,
                     const MixerCall& mixer);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_MODULES_BLOCK_H_
