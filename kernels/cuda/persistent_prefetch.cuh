// What a block will need of a layer besides streamed weights, brought near while the layer before
// it runs: into the second cache, for memory takes as long to answer as an exchange of blocks.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_PREFETCH_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_PREFETCH_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_block.cuh"
#include "kernels/cuda/recurrence.cuh"

namespace mambad::kernels::cuda {

// Lines of `bytes` from `from` on; a lane each.
__device__ __forceinline__ void PrefetchLines(const void* from, int bytes) {
  constexpr int kLine = 128;
  for (int at = threadIdx.x % kWarp * kLine; at < bytes; at += kWarp * kLine) {
    PrefetchLine(static_cast<const unsigned char*>(from) + at);
  }
}

// A sequence's numbers of a panel of channels, `first` the first of them. `part`: of 4, a warp.
__device__ __forceinline__ void PrefetchSequence(const PassBlock& block, const SequenceRows& rows,
                                                 int position, int first, int part) {
  const RecurrentSlotLayout& layout = block.program.mamba.state.layout;
  const int lane = threadIdx.x % kWarp;
  switch (part) {
    case 0:
      PrefetchLines(LoadedState(rows, layout) + first * block.program.mamba.state_size,
                    kTileRows * block.program.mamba.state_size * int{sizeof(float)});
      break;
    case 1:  // x and delta
      if (lane / 2 < rows.replay) {
        PrefetchLine(ReplayRow(rows, layout, lane / 2) + lane % 2 * block.program.mamba.inner +
                     first);
      }
      break;
    case 2:
      if (lane < rows.replay)
        PrefetchLine(ReplayRow(rows, layout, lane) + 2 * block.program.mamba.inner);
      break;
    default:
      if (lane + 1 < block.program.mamba.taps && lane < position) {
        const int row = (position - 1 - lane) % layout.ring_rows;
        PrefetchLine(rows.slot + layout.ring + row * block.program.mamba.inner + first);
      }
  }
}

// Of the block's channels. `thread`: of eight warps.
__device__ __forceinline__ void PrefetchLayer(const PassBlock& block, int index, int thread) {
  const PassLayer& layer = block.Layer(index);
  const int warp = thread / kWarp, lane = threadIdx.x % kWarp;
  for (int round = 0; round < block.channel_rounds; ++round) {
    const int panel = block.Channels(round).unit, first = panel * kTileRows;
    if (warp < 4) {
      for (int s = 0; s < block.batch().sequences; ++s) {
        const SequenceRows rows = block.RowsOf(layer, s);
        if (rows.runs()) PrefetchSequence(block, rows, block.batch().position[s], first, warp);
      }
    } else if (warp < 6) {  // a half of dt's weights
      const int half = block.program.mamba.delta_steps * kTileBytes / 2;
      PrefetchLines(reinterpret_cast<const unsigned char*>(layer.delta) + 2 * panel * half +
                        (warp - 4) * half,
                    half);
    } else if (warp == 6) {
      PrefetchLines(layer.a + first * block.program.mamba.state_size,
                    kTileRows * block.program.mamba.state_size * int{sizeof(float)});
    } else {
      const int taps_bytes = kTileRows * block.program.mamba.taps * int{sizeof(float)};
      PrefetchLines(layer.convolution + first * block.program.mamba.taps, taps_bytes);
      if (lane == 0 && layer.convolution_bias != nullptr) {
        PrefetchLine(layer.convolution_bias + first);
      }
      if (lane == 1) PrefetchLine(layer.dt_bias + first);
      if (lane == 2) PrefetchLine(layer.skip + first);
    }
  }
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_PREFETCH_CUH_
