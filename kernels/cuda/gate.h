// The gate of a gated MLP.

#ifndef MAMBAD_KERNELS_CUDA_GATE_H_
#define MAMBAD_KERNELS_CUDA_GATE_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/token_tiles.h"
#include "kernels/tensor.h"

namespace mambad::kernels::cuda {

// out [R, F] = SiLU(gate) * up; rows of gate_and_up [R, 2 F]: gate, up. `row_count` (device memory;
// nullptr: all of out): the rows that there are. They do not overlap. Where tiles are given, the
// result goes there instead.
void SiluGate(cudaStream_t stream, const int32_t* row_count, const RowsView& gate_and_up,
              const RowsView& out, const TokenTiles& tiles = {});

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_GATE_H_
