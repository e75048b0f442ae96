// What stands before and behind the head's product.

#ifndef MAMBAD_KERNELS_CUDA_HEAD_H_
#define MAMBAD_KERNELS_CUDA_HEAD_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/tensor.h"

namespace mambad::kernels::cuda {

// Row i of `input` becomes row batch.logit_rows[i] of `residual`, for those that there are; their
// number goes to *count, device memory. `input` has batch.logit_count rows at least. A row beyond
// the batch's traps: the device is lost.
void GatherLogitRows(cudaStream_t stream, const Batch& batch, const RowsView& residual,
                     const RowsView& input, int32_t* count);

// Spreads the first `token_count` numbers of each row of logits [R, V] over the places of `tokens`
// [token_count], ascending, each once and below V; everything else becomes kUnproposedLogit.
// `row_count` (device memory; nullptr: all): the rows that there are.
void SpreadOverTokens(cudaStream_t stream, const int32_t* row_count, const int32_t* tokens,
                      int64_t token_count, const RowsView& logits);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_HEAD_H_
