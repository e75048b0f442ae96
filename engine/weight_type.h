// What a model's matrices are computed with, and its keys and values kept as.

#ifndef MAMBAD_ENGINE_WEIGHT_TYPE_H_
#define MAMBAD_ENGINE_WEIGHT_TYPE_H_

#include "engine/checkpoint/checkpoint.h"
#include "engine/options.h"
#include "kernels/tensor.h"

namespace mambad {

// Whether float16 weights lose bits as bfloat16. Those that were bfloat16 before somebody wrote
// them as float16 lose none. The first row of every matrix is looked at.
bool LosesFloat16(const checkpoint::Checkpoint& checkpoint);

// Float32 or else bfloat16. kAuto: float32 where most of the matrices are float32, or float16 that
// bfloat16 would round; quantised ones are rounded.
bool ComputesInFloat32(const checkpoint::Checkpoint& checkpoint, ComputeType type);

// Of a type that was chosen: not kAuto.
inline kernels::ElementType ElementTypeOf(ComputeType type) {
  return type == ComputeType::kBFloat16 ? kernels::ElementType::kBFloat16
                                        : kernels::ElementType::kFloat32;
}

}  // namespace mambad

#endif  // MAMBAD_ENGINE_WEIGHT_TYPE_H_
