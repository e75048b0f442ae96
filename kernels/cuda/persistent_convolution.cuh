// The convolution of a block's channels within a pass: the same chain of multiply-adds as
// convolution.cu, a thread a row and channel.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_CONVOLUTION_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_CONVOLUTION_CUH_

#include <cstdint>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/persistent_block.cuh"

namespace mambad::kernels::cuda {

// Which sequence a row of a batch belongs to.
struct PassRow {
  int sequence = 0, local = 0, count = 0;  // row `local` of the sequence's `count`
  int position = 0;                        // of the sequence's first row

  __device__ __forceinline__ PassRow(const Batch& batch, int row) {
    while (batch.row_begin[sequence + 1] <= row) ++sequence;
    local = row - batch.row_begin[sequence];
    count = batch.row_begin[sequence + 1] - batch.row_begin[sequence];
    position = batch.position[sequence];
  }
};

// Item i of a block's channels, [rounds][rows that there are][16]: one row of one channel.
struct PassConvolutionItem {
  int round = 0, row = 0, channel = 0, in_panel = 0;
  bool listed = false, there = false;  // in the list; and the block's

  __device__ __forceinline__ PassConvolutionItem(const PassBlock& block, int i) {
    const unsigned rows = block.there, number = i / kTileRows;
    listed = number < rows * block.channel_rounds;
    if (!listed) return;
    in_panel = i % kTileRows;
    round = number / rows;
    row = number - round * rows;
    const PassPart part = block.Channels(round);
    channel = part.unit * kTileRows + in_panel;
    there = part.HasRow(in_panel);
  }
  // Of the channel, in the slot of the row's sequence.
  __device__ __forceinline__ float* Ring(const PassBlock& block, const PassLayer& layer,
                                         const PassRow& of) const {
    const RecurrentState& state = block.program.mamba.state;
    return layer.state + block.batch().slot[of.sequence] * state.slot_stride + state.layout.ring +
           channel;
  }
};

// What no row of this pass has a part in is loaded ahead.
class PassConvolution {
 public:
  __device__ __forceinline__ PassConvolution(const PassBlock& block, const PassLayer& layer,
                                             const PassConvolutionItem& item)
      : item_(item) {
    if (!item.there) return;
    const PassRow row(block.batch(), item.row);
    const float* const ring = item.Ring(block, layer, row);
    local_ = row.local;
    bias_ = layer.convolution_bias == nullptr ? 0.0f : layer.convolution_bias[item.channel];
    taps_ = block.program.mamba.taps;
    const int ring_rows = block.program.mamba.state.layout.ring_rows,
              first = row.position % ring_rows;
#pragma unroll
    for (int j = 0; j < kPassTaps; ++j) {
      if (j >= taps_) break;
      weights_[j] = layer.convolution[item.channel * taps_ + j];
      const int before = local_ - taps_ + 1 + j;
      earlier_[j] = 0.0f;
      if (before < 0 && row.position + before >= 0) {
        // As many rows as there are taps before a row fit the ring.
        const int place = first + before;
        earlier_[j] = ring[(place < 0 ? place + ring_rows : place) * block.program.mamba.inner];
      }
    }
  }

  // Convolves, for the block's scan and for all who select. All lanes of a warp.
  __device__ __forceinline__ void Run(const PassBlock& block, int layer) {
    float x = 0;
    if (item_.there) {
      float sum = bias_;
#pragma unroll
      for (int j = 0; j < kPassTaps; ++j) {
        if (j >= taps_) break;
        const int before = local_ - taps_ + 1 + j;
        const float tap = before < 0
                              ? earlier_[j]
                              : block.Input(item_.round, item_.row - taps_ + 1 + j)[item_.in_panel];
        sum = fmaf(weights_[j], tap, sum);
      }
      x = SiLU(sum);
      block.Convolved(item_.round, item_.row)[item_.in_panel] = x;
    }
    const uint32_t pair = PairOfLanes(x);
    if (item_.there && item_.channel % 2 == 0) {
      block.Send(OperandPlace(block.X(layer), block.there, item_.channel, item_.row), pair);
    }
  }

 private:
  const PassConvolutionItem item_;
  int local_ = 0, taps_ = 0;
  float bias_ = 0, weights_[kPassTaps], earlier_[kPassTaps];
};

// Keeps the convolution's input in the ring, from where all have taken what was there by now.
__device__ __forceinline__ void KeepInput(const PassBlock& block, const PassLayer& layer,
                                          const PassConvolutionItem& item) {
  if (!item.there) return;
  const PassRow row(block.batch(), item.row);
  if (row.local < row.count - block.program.mamba.state.layout.ring_rows)
    return;  // only the last ones fit
  const int place = (row.position + row.local) % block.program.mamba.state.layout.ring_rows;
  item.Ring(block, layer, row)[place * block.program.mamba.inner] =
      block.Input(item.round, item.row)[item.in_panel];
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_CONVOLUTION_CUH_
