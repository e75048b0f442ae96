// The last step of every parameter gradient: partial sums, one row a block, added up in row order.

#ifndef MAMBAD_KERNELS_CUDA_TRAINING_COLUMN_SUM_H_
#define MAMBAD_KERNELS_CUDA_TRAINING_COLUMN_SUM_H_

#include <cstdint>

struct CUstream_st;

namespace mambad::kernels::cuda {

// sums[c] = sum over r of partials[r * stride + c], c < columns. Queued on `stream`; null, or what
// is wrong with the launch.
const char* SumColumns(const float* partials, int64_t rows, int64_t columns, int64_t stride,
                       float* sums, CUstream_st* stream);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TRAINING_COLUMN_SUM_H_
