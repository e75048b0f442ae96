// Rows of a packed matrix: the embedding of tokens.

#ifndef MAMBAD_KERNELS_CUDA_EMBEDDING_H_
#define MAMBAD_KERNELS_CUDA_EMBEDDING_H_

#include <cuda_runtime.h>

#include "kernels/backend.h"
#include "kernels/tensor.h"

namespace mambad::kernels::cuda {

// Row r of residual becomes row batch.tokens[r] of `embedding`, widened to float32 and otherwise as
// it was packed, for the batch's rows that there are. A token beyond the matrix traps: the device
// is lost.
void Embed(cudaStream_t stream, const Batch& batch, const WeightMatrix& embedding,
           const RowsView& residual);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_EMBEDDING_H_
