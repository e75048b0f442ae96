// From the logits of some rows to loss and gradient: the inner step of losses.cc.

#ifndef MAMBAD_TRAINER_HEAD_GRADIENT_H_
#define MAMBAD_TRAINER_HEAD_GRADIENT_H_

#include <ATen/core/Tensor.h>

#include "trainer/losses.h"

namespace mambad::trainer {

// One result a row, fp32 (fp64 for fp64 logits): loss (unweighed), KL, cross entropy, 1 where the
// arg max agrees with the teacher's, alpha. [rows, 5].
inline constexpr int64_t kRowResults = 5;

// student [rows, V], teacher [rows, V] or undefined, targets [rows] or undefined, row_weight
// [rows]. Returns [rows, kRowResults]; when wants_gradient, `student` then holds d(row_weight *
// loss)/d logits. Own CUDA kernel for bf16 on CUDA where it was built, LibTorch's operations
// elsewhere.
at::Tensor LogitsToGradient(at::Tensor student, const at::Tensor& teacher,
                            const at::Tensor& targets, const at::Tensor& row_weight,
                            const HeadLossOptions& options, bool wants_gradient);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_HEAD_GRADIENT_H_
