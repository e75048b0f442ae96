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
  int64_t position = 0;                    // of the sequence's first row

  __device__ __forceinline__ PassRow(const Batch& batch, int row) {
    while (batch.row_begin[sequence + 1] <= row) ++sequence;
    local = row - batch.row_begin[sequence];
    count = batch.row_begin[sequence + 1] - batch.row_begin[sequence];
    position = batch.position[sequence];
  }
};

// One row of one channel. What no row of this pass has a part in is loaded ahead.
class PassConvolution {
 public:
  // Item i of the block's channels: [rounds][rows that there are][16].
  __device__ __forceinline__ PassConvolution(const PassBlock& block, const PassMamba& layer,
                                             const PassUnits& first, int apart, int i)
      : there_(false) {
    if (block.there == 0) return;
    channel_in_panel_ = i % kTileRows;
    row_ = i / kTileRows % block.there;
    const int later = i / kTileRows / block.there;  // rounds after the first one
    round_ = first.round + later;
    const int channel = channel_ = (first.unit + later * apart) * kTileRows + channel_in_panel_;
    there_ = round_ < kPassRounds && channel < layer.inner;
    if (!there_) return;
    const PassRow row(block.batch(), row_);
    local_ = row.local;
    const RecurrentState& state = layer.state;
    ring_ = state.data + block.batch().slot[row.sequence] * state.slot_stride + state.layout.ring +
            channel;
    bias_ = layer.convolution_bias == nullptr ? 0.0f : layer.convolution_bias[channel];
    taps_ = layer.taps;
#pragma unroll
    for (int j = 0; j < kMaxConvolutionWidth; ++j) {
      if (j >= taps_) break;
      weights_[j] = layer.convolution[channel * taps_ + j];
      const int before = local_ - taps_ + 1 + j;
      earlier_[j] = 0.0f;
      if (before < 0 && row.position + before >= 0) {
        earlier_[j] = ring_[Place(layer, row.position + before)];
      }
    }
    // Only the last rows of a call fit the ring.
    const bool kept = local_ >= row.count - state.layout.ring_rows;
    kept_ = kept ? Place(layer, row.position + local_) : -1;
  }

  // Convolves, for the block's scan and for all who select. All lanes of a warp.
  __device__ __forceinline__ void Run(const PassBlock& block, int layer) {
    float x = 0;
    if (there_) {
      float sum = bias_;
#pragma unroll
      for (int j = 0; j < kMaxConvolutionWidth; ++j) {
        if (j >= taps_) break;
        const int before = local_ - taps_ + 1 + j;
        const float tap =
            before < 0 ? earlier_[j] : block.Input(round_, row_ - taps_ + 1 + j)[channel_in_panel_];
        sum = fmaf(weights_[j], tap, sum);
      }
      x = SiLU(sum);
      block.Convolved(round_, row_)[channel_in_panel_] = x;
    }
    const uint32_t pair = PairOfLanes(x);
    if (there_ && channel_ % 2 == 0) {
      block.Send(OperandPlace(block.X(layer), block.there, channel_, row_), pair);
    }
  }
  // When all items have been loaded.
  __device__ __forceinline__ void Keep(const PassBlock& block) const {
    if (there_ && kept_ >= 0) ring_[kept_] = block.Input(round_, row_)[channel_in_panel_];
  }

 private:
  __device__ __forceinline__ static int64_t Place(const PassMamba& layer, int64_t position) {
    return position % layer.state.layout.ring_rows * layer.inner;
  }

  bool there_;
  int round_ = 0, row_ = 0, channel_ = 0, channel_in_panel_ = 0, local_ = 0, taps_ = 0;
  float bias_ = 0, weights_[kMaxConvolutionWidth], earlier_[kMaxConvolutionWidth];
  float* ring_ = nullptr;
  int64_t kept_ = -1;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_CONVOLUTION_CUH_
