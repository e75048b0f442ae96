// Activation checkpointing: a block keeps its inputs in the forward pass and runs again for the
// backward pass (Chen, Xu, Zhang, Guestrin 2016).

#ifndef MAMBAD_TRAINER_MODULES_RECOMPUTE_H_
#define MAMBAD_TRAINER_MODULES_RECOMPUTE_H_

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "trainer/modules/block.h"

namespace mambad::trainer {

using BlockFunction = std::function<BlockStream(const BlockStream&)>;

// run(input), with gradients for the stream and for `parameters`: those that `run` reads and that
// are trained. `run` is called again while the gradients are made: what it reads must still be
// there and unchanged. Its result's delta is defined.
BlockStream Recomputed(const BlockFunction& run, const BlockStream& input,
                       const std::vector<at::Tensor>& parameters);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_MODULES_RECOMPUTE_H_
