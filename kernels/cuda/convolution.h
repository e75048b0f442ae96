// Private to the recurrent mixers: the causal depthwise convolution with its ring of earlier
// inputs, then SiLU.
//
//   out_t[c] = SiLU(bias[c] + sum over j < W of w[c, j] * in_{t - W + 1 + j}[c]), summed in the
//   order of j
//
// Inputs before position 0 count as zeros whatever the ring holds. Inputs of the call's rows are
// written to the ring, row position % ring_rows.

#ifndef MAMBAD_KERNELS_CUDA_CONVOLUTION_H_
#define MAMBAD_KERNELS_CUDA_CONVOLUTION_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/token_tiles.h"

namespace mambad::kernels::cuda {

// Channels [begin, end) read columns of the input from `source` on; whole groups of `group` columns
// serve `repeats` consecutive groups of channels each.
struct ChannelSegment {
  int64_t begin = 0, end = 0, source = 0;
  int64_t group = 1, repeats = 1;
};

struct ConvolutionShape {
  int width = 4;                   // W
  const float* weights = nullptr;  // [channels, W]
  const float* bias = nullptr;     // [channels] or nullptr
  int64_t channels = 0;
  ChannelSegment segments[3];
  int segment_count = 0;
  int64_t out_group = 1, out_repeats = 1;  // the result's groups are each written out_repeats times
};

// in [R, ...], out [R, channels * out_repeats]; apart from each other. With tiles, out_repeats is 1
// and the result goes there, too.
void Convolve(cudaStream_t stream, const Batch& batch, const ConvolutionShape& shape,
              const RecurrentState& state, const RowsView& in, const RowsView& out,
              const TokenTiles& tiles = {});

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_CONVOLUTION_H_
