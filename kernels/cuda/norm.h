// RMSNorm of rows that no product follows: y = x / sqrt(mean(x^2) + epsilon), float32. Norms before
// products are part of linear.h.

#ifndef MAMBAD_KERNELS_CUDA_NORM_H_
#define MAMBAD_KERNELS_CUDA_NORM_H_

#include <cuda_runtime.h>

#include <array>
#include <cstdint>

#include "kernels/tensor.h"

namespace mambad::kernels::cuda {

// Each row of each part by itself, in place, without a weight: dt, B and C of a Mamba-1 layer. All
// parts have as many rows. `row_count` (device memory; nullptr: all): the rows that there are. The
// order of a row's sum follows from the columns of its part.
void NormSelection(cudaStream_t stream, const int32_t* row_count, float epsilon,
                   const std::array<RowsView, 3>& parts);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_NORM_H_
