// Log-probabilities of tokens under rows of logits as they are: softmax over the real vocabulary.

#ifndef MAMBAD_KERNELS_CUDA_LOG_PROBABILITIES_H_
#define MAMBAD_KERNELS_CUDA_LOG_PROBABILITIES_H_

#include <cuda_runtime.h>

#include "kernels/backend.h"

namespace mambad::kernels::cuda {

// Those of the tokens that stand in `result` already, and their alternatives, of slots that ask for
// them. `window`: no sequence has kept more.
void LogProbabilitiesOfKept(cudaStream_t stream, const Acceptance& request,
                            const SamplingTables& tables, const RowsView& logits,
                            const AcceptanceResult& result, int window);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_LOG_PROBABILITIES_H_
