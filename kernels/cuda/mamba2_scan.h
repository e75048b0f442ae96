// Private to Mamba-2's mixer: where things stand in its rows, its recurrence, and what follows.

#ifndef MAMBAD_KERNELS_CUDA_MAMBA2_SCAN_H_
#define MAMBAD_KERNELS_CUDA_MAMBA2_SCAN_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/token_tiles.h"

namespace mambad::kernels::cuda {

// Widths of x and B, in the projection and as the convolution leaves them.
struct Mamba2Widths {
  explicit Mamba2Widths(const Mamba2Layer& layer)
      : inner(layer.inner_width), groups(int64_t{layer.groups} * layer.state_size) {
    const bool shares = layer.source_width > 0, early = shares && layer.repeat_before_convolution;
    source_x = shares ? layer.source_width : inner;
    source_b = shares ? layer.source_width : groups;
    x = early ? inner : source_x;
    b = early ? groups : source_b;
    channels = x + b + groups;
    dt_column = inner + source_x + source_b + groups;
  }

  int64_t inner, groups;       // I, G N
  int64_t source_x, source_b;  // in the projection
  int64_t x, b;                // convolved
  int64_t channels;            // of the convolution
  int64_t dt_column;           // in the projection
};

// The recurrence between convolution and norm: gated [R, I] = (S C + D x) SiLU(z),
// verify-and-commit. projected [R, rows of `in`] gives z and dt, convolved [R, channels] x, B and
// C.
void Mamba2Scan(cudaStream_t stream, const Batch& batch, const Mamba2Layer& layer,
                const RecurrentState& state, const RowsView& projected, const RowsView& convolved,
                const RowsView& gated);

// What follows it: RMSNorm of each of gated's rows in its groups, in place or into tiles, where
// some are given, and the rows to keep.
void Mamba2Finish(cudaStream_t stream, const Batch& batch, const Mamba2Layer& layer,
                  const RecurrentState& state, const RowsView& projected, const RowsView& convolved,
                  const RowsView& gated, const TokenTiles& tiles = {});

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_MAMBA2_SCAN_H_
