// Private to Mamba-1's mixer: its second half for layers of 16 state numbers, in two ways that give
// the same bits as the kernels for any layer (mamba_scan.cu).

#ifndef MAMBAD_KERNELS_CUDA_MAMBA_ROWS_H_
#define MAMBAD_KERNELS_CUDA_MAMBA_ROWS_H_

#include <cuda_runtime.h>

#include "kernels/backend.h"
#include "kernels/cuda/token_tiles.h"

namespace mambad::kernels::cuda {

// MambaScan's arguments (mixers.h).
struct MambaRows {
  Batch batch;
  MambaLayer layer;
  RecurrentState state;
  RowsView x, delta, b, c, z, gated;
  TokenTiles tiles;  // where there are some, they get what `gated` would
  int b_groups = 1;  // groups of B before their repetition
};

// MambaScan but for B's rows to keep, where sequences have few rows each, or many. False, and
// nothing is launched, where sizes or row counts do not fit.
bool MambaFewRows(cudaStream_t stream, const MambaRows& arguments);
bool MambaManyRows(cudaStream_t stream, const MambaRows& arguments);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_MAMBA_ROWS_H_
