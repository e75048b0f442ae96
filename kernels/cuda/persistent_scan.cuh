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
inline constexpr int kScanThreads = kTileRows * kScanLanes;  // of a panel of channels: two warps

// A panel's channels of one sequence: a warp has eight of them, four lanes each. What is done once
// a row and channel is done by one of the four, rows lane, lane + 4 of the sequence's call.
class PassScan {
 public:
  static constexpr int kOwn = kPassRows / kScanLanes;

  // The block's channels of round `round`, which are `part`, of sequence s; loads the state and
  // runs what is replayed, which needs nothing of this pass. `thread`: of kScanThreads, whole
  // warps. Where it is not `there`, nothing ever happens.
  __device__ __forceinline__ PassScan(const PassBlock& block, const PassLayer& layer, bool there,
                                      int round, const PassPart& part, int s, int thread)
      : block_(block),
        layer_(layer),
        rows_(there ? block.RowsOf(layer, s) : SequenceRows{}),
        half_(thread / kWarp),
        in_panel_(half_ * (kWarp / kScanLanes) + thread % (kWarp / kScanLanes)),
        round_(round),
        state_(part.unit * kTileRows + in_panel_,
               there && part.HasRow(in_panel_) ? block_.program.mamba.inner : 0,
               block_.program.mamba.state_size, layer.a) {
    if (!rows_.runs()) return;
    const RecurrentSlotLayout& layout = block_.program.mamba.state.layout;
    state_.Load(LoadedState(rows_, layout));
    bias_ = state_.inside ? layer.dt_bias[state_.channel] : 0.0f;
    skip_ = state_.inside ? layer.skip[state_.channel] : 0.0f;
    for (int i = 0; i < rows_.replay; ++i) {
      const float* const kept = ReplayRow(rows_, layout, i);
      const float* const b = kept + 2 * block_.program.mamba.inner;
      const float x = state_.inside ? kept[state_.channel] : 0.0f;
      const float delta = state_.inside ? kept[block_.program.mamba.inner + state_.channel] : 0.0f;
      const float dt = Softplus(delta + bias_);
      state_.Step(dt * kLog2e, dt * x, [&](int n) { return __ldcg(b + n); });
      if (i + 1 == rows_.stored) state_.Store(rows_.slot + layout.checkpoint);
    }
  }

  // The rows of the call, of layer `index`; by now dt_low, B and C are there. Gates are waited for:
  // kGateSums turns over with parity `turn`.
  __device__ __forceinline__ void Run(int index, uint32_t turn) {
    if (!rows_.runs()) return;
    float delta[kOwn] = {}, x[kOwn] = {}, y[kOwn] = {};
    if (rows_.rows > 0) {
      Deltas(delta);
      RunRows(delta, x, y);
    }
    if (rows_.stores_working) state_.Store(rows_.slot + block_.program.mamba.state.layout.working);
    if (rows_.rows == 0) return;
    AwaitTurn(block_.Meeting(kGateSums), turn);
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      if (k * kScanLanes < rows_.rows) Finish(index, Own(k), x[k], delta[k], y[k]);
    }
  }

 private:
  // Row of the sequence's call.
  __device__ __forceinline__ int Own(int k) const { return state_.lane + k * kScanLanes; }
  __device__ __forceinline__ int Row(int i) const { return static_cast<int>(rows_.row_begin) + i; }

  // delta of this lane's rows: dt's product, in the order of packing.cuh.
  __device__ __forceinline__ void Deltas(float (&delta)[kOwn]) const {
    const int steps = block_.program.mamba.delta_steps, thread = threadIdx.x % kWarp;
    const bool present = thread / 4 < block_.there;
    const uint2* const low = block_.At<uint2>(block_.place.low) + thread;
    float sums[4] = {}, total[4] = {};
    int eighth = -1, next = 0;  // where the next eighth begins
    const uint4* const weights = block_.Delta(round_) + thread;
#pragma unroll 1
    for (int at = 0; at < steps; ++at) {
      if (next <= at) {  // another eighth begins
        while (next <= at) next = PassEighth(steps, ++eighth + 1);
#pragma unroll
        for (int e = 0; e < 4; ++e) total[e] += sums[e], sums[e] = 0;
      }
      uint2 right = {};
      if (present) right = low[at * block_.there * 4];
      MultiplyAdd(weights[at * kWarp], right, sums);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) total[e] += sums[e];
    // Of channel g of the half, a lane (g, t) has tokens 2 t and 2 t + 1.
    const float even = half_ == 0 ? total[0] : total[2], odd = half_ == 0 ? total[1] : total[3];
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      const int token = min(Row(Own(k)), kPassRows - 1);
      const int from = thread % (kWarp / kScanLanes) * 4 + token / 2;
      const float a = __shfl_sync(kAllLanes, even, from), b = __shfl_sync(kAllLanes, odd, from);
      delta[k] = token % 2 == 0 ? a : b;
    }
  }

  // The recurrence; x and y of this lane's rows.
  __device__ __forceinline__ void RunRows(const float (&delta)[kOwn], float (&x)[kOwn],
                                          float (&y)[kOwn]) {
    float dt[kOwn] = {};
#pragma unroll
    for (int k = 0; k < kOwn; ++k) {
      if (Own(k) < rows_.rows) {
        x[k] = block_.Convolved(round_, Row(Own(k)))[in_panel_];
        dt[k] = Softplus(delta[k] + bias_);
      }
    }
#pragma unroll 1
    for (int i = 0; i < rows_.rows; ++i) {
      const int from = i % kScanLanes * (kWarp / kScanLanes) + threadIdx.x % (kWarp / kScanLanes);
      const bool first = i < kScanLanes;
      static_assert(kOwn == 2);
      const float rate = __shfl_sync(kAllLanes, (first ? dt[0] : dt[1]) * kLog2e, from);
      const float input = __shfl_sync(kAllLanes, first ? dt[0] * x[0] : dt[1] * x[1], from);
      const float* const b = block_.Selection(Row(i));
      state_.Step(rate, input, [&](int n) { return b[n]; });
      const float out = state_.Output([&](int n) { return b[kPassStateSize + n]; });
      if (Own(0) == i) y[0] = out;
      if (Own(1) == i) y[1] = out;
      if (rows_.replay + i + 1 == rows_.stored) {
        state_.Store(rows_.slot + block_.program.mamba.state.layout.checkpoint);
      }
    }
  }

  // All lanes of a warp.
  __device__ __forceinline__ void Finish(int index, int i, float x, float delta, float y) const {
    const bool there = i < rows_.rows;
    const int row = Row(there ? i : 0);
    const float gate =
        block_.SumOfEighths(block_.GatePlace(round_), in_panel_, row) * block_.Scales()[row];
    const uint32_t pair = PairOfLanes(fmaf(skip_, x, y) * SiLU(gate));
    if (!there || !state_.inside) return;
    if (in_panel_ % 2 == 0) {
      block_.Send(OperandPlace(block_.Gated(index), block_.there, state_.channel, row), pair);
    }
    if (rows_.replay + i < rows_.kept) return;
    float* const kept = KeptRow(rows_, block_.program.mamba.state.layout, rows_.replay + i);
    kept[state_.channel] = x;
    kept[block_.program.mamba.inner + state_.channel] = delta;
  }

  const PassBlock& block_;
  const PassLayer& layer_;
  const SequenceRows rows_;
  const int half_, in_panel_, round_;
  ChannelState<kScanLanes, kScanNumbers> state_;
  float bias_ = 0, skip_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_SCAN_CUH_
