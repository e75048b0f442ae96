// Private to Mamba-2's scan: what its kernels are told.

#ifndef MAMBAD_KERNELS_CUDA_MAMBA2_SCAN_CUH_
#define MAMBAD_KERNELS_CUDA_MAMBA2_SCAN_CUH_

#include <cuda_runtime.h>

#include "kernels/backend.h"
#include "kernels/cuda/mamba2_scan.h"

namespace mambad::kernels::cuda {

struct Mamba2Arguments {
  Batch batch;
  Mamba2Layer layer;
  RecurrentState state;
  RowsView projected, convolved, out;
  Mamba2Widths widths;
};

// Mamba2Scan but for the rows to keep, where sequences have few rows each, or many. False, and
// nothing is launched, where the layer's sizes, the row counts or the device do not fit. The same
// bits as the kernels for any layer (mamba2_scan.cu).
bool Mamba2FewRows(cudaStream_t stream, const Mamba2Arguments& arguments);
bool Mamba2ManyRows(cudaStream_t stream, const Mamba2Arguments& arguments);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_MAMBA2_SCAN_CUH_
