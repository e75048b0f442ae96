// dt, scan, gate of a block's channels within a pass: the same formulas as mamba_scan.cu.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_SCAN_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_SCAN_CUH_

#include <cstdint>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/mamba_channel.cuh"
#include "kernels/cuda/persistent_block.cuh"
#include "kernels/cuda/recurrence.cuh"

namespace mambad::kernels::cuda {

inline constexpr int kScanLanes = 4, kScanNumbers = 4;
inline constexpr int kScanThreads = kTileRows * kScanLanes;  // of a panel of channels

// A channel of one sequence; four lanes of a warp.
class PassScan {
 public:
  // Panel `panel` of the block's round `round`, sequence s; loads the state and runs what is
  // replayed, which needs nothing of this pass. `thread`: of kScanThreads, whole warps. Where it
  // is not `there`, nothing ever happens.
  __device__ __forceinline__ PassScan(const PassBlock& block, const PassMamba& layer, bool there,
                                      int round, int panel, int s, int thread)
      : rows_(there ? RowsOfSequence(block.batch(), layer.state, s) : SequenceRows{}),
        in_panel_(thread / kWarp * (kWarp / kScanLanes) + thread % (kWarp / kScanLanes)),
        round_(round),
        state_(panel * kTileRows + in_panel_, layer.inner, layer.state_size, layer.a) {
    if (!rows_.runs()) return;
    const RecurrentSlotLayout& layout = layer.state.layout;
    bias_ = state_.inside ? layer.dt_bias[state_.channel] : 0.0f;
    skip_ = state_.inside ? layer.skip[state_.channel] : 0.0f;
    state_.Load(LoadedState(rows_, layout));
    for (int i = 0; i < rows_.replay; ++i) {
      const float* const kept = ReplayRow(rows_, layout, i);
      const float* const b = kept + 2 * layer.inner;
      const float x = state_.inside ? kept[state_.channel] : 0.0f;
      const float delta = state_.inside ? kept[layer.inner + state_.channel] : 0.0f;
      const float dt = Softplus(delta + bias_);
      state_.Step(dt * kLog2e, dt * x, [&](int n) { return __ldcg(b + n); });
      if (i + 1 == rows_.stored) state_.Store(rows_.slot + layout.checkpoint);
    }
  }

  // The rows of the call, of layer `index`; by now delta, B and C are there.
  __device__ __forceinline__ void Run(const PassBlock& block, const PassMamba& layer, int index) {
    if (!rows_.runs()) return;
    const RecurrentSlotLayout& layout = layer.state.layout;
    for (int i = rows_.replay; i < rows_.total(); ++i) {
      const int row = static_cast<int>(rows_.call_row(i));
      const float* const b = block.Selection(row);
      const float* const c = b + kPassStateSize;
      const float x = block.Convolved(round_, row)[in_panel_];
      const float delta = block.Delta(round_, row)[in_panel_];
      const float dt = Softplus(delta + bias_);
      state_.Step(dt * kLog2e, dt * x, [&](int n) { return b[n]; });
      const float y = state_.Output([&](int n) { return c[n]; });
      Finish(block, layer, index, i, row, x, delta, y);
      if (i + 1 == rows_.stored) state_.Store(rows_.slot + layout.checkpoint);
    }
    if (rows_.stores_working) state_.Store(rows_.slot + layout.working);
  }

 private:
  // All lanes of a warp; the first ones of its channels send and keep.
  __device__ __forceinline__ void Finish(const PassBlock& block, const PassMamba& layer, int index,
                                         int i, int row, float x, float delta, float y) const {
    const float gated = fmaf(skip_, x, y) * SiLU(block.Gate(round_, row)[in_panel_]);
    const uint32_t pair = PairOfLanes(gated);
    if (state_.lane > 0) return;
    if (in_panel_ % 2 == 0) {
      block.Send(OperandPlace(block.Gated(index), block.there, state_.channel, row), pair);
    }
    if (i < rows_.kept) return;
    float* const kept = KeptRow(rows_, layer.state.layout, i);
    kept[state_.channel] = x;
    kept[layer.inner + state_.channel] = delta;
  }

  const SequenceRows rows_;
  const int in_panel_, round_;
  ChannelState<kScanLanes, kScanNumbers> state_;
  float bias_ = 0, skip_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_SCAN_CUH_
