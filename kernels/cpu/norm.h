// RMSNorm of single rows: y = x / sqrt(mean(x^2) + epsilon) * weight, in float32.

#ifndef MAMBAD_KERNELS_CPU_NORM_H_
#define MAMBAD_KERNELS_CPU_NORM_H_

#include <cstdint>

#include "kernels/backend.h"

namespace mambad::kernels {

// x, y and norm.weight (nullptr: ones) hold `columns` numbers; y may be x. The sum of squares has
// one fixed order, which depends on `columns` and the instruction set alone.
void RmsNormRow(const NormWeights& norm, const float* x, int64_t columns, float* y);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_NORM_H_
