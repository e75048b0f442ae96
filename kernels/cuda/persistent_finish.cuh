// The finishing warps of a pass: they add up what the multiplying warps leave, and compute all that
// is no streamed product, in the order of the steps.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_FINISH_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_FINISH_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_block.cuh"
#include "kernels/cuda/persistent_convolution.cuh"
#include "kernels/cuda/persistent_prefetch.cuh"
#include "kernels/cuda/persistent_scan.cuh"

namespace mambad::kernels::cuda {

class PassFinisher {
 public:
  __device__ __forceinline__ explicit PassFinisher(const PassBlock& block)
      : block_(block),
        program_(block.program),
        thread_(threadIdx.x - kMultipliers),
        lane_(threadIdx.x % kWarp) {}

  __device__ __forceinline__ void Walk() {
#pragma unroll 1
    for (int i = 0; i < program_.step_count; ++i) {
      Recompute(thread_), Recompute(lane_);
      const PassStep step = block_.Steps()[i];
      const PassUnits units(step);
      if (!units.There(step)) continue;
      // Without rows states may be stored, and nothing else happens.
      if (step.action != PassAction::kScan && block_.Skips(step)) continue;
      switch (step.action) {
        case PassAction::kChannels:
          Channels(step, units);
          break;
        case PassAction::kGates:
        case PassAction::kSelect:
          break;
        case PassAction::kScan:
          Scan(step, units);
          break;
        case PassAction::kOutput:
          Output(step, units);
          break;
        case PassAction::kHead:
          Head(step, units);
          break;
      }
    }
  }

  // The residual before the first layer, of the columns that are the block's.
  __device__ __forceinline__ void SendFirst() const {
    const RowsView& residual = program_.residual;
    for (int i = 0; i < program_.step_count; ++i) {
      const PassStep step = block_.Steps()[i];
      if (step.action != PassAction::kOutput) continue;
      ForOutputs(step, PassUnits(step), [&](int, int panel, int token, int row, bool there) {
        const int column = panel * kTileRows + row;
        float number = 0;
        if (there && column < residual.columns) {
          number = residual.data[token * residual.stride + column];
        }
        Publish(0, block_.Layer(0).norm_weight, column, token, number, there);
      });
      return;
    }
  }

 private:
  __device__ __forceinline__ void Meet() const { MeetAt(kFinishersMeet, kFinishers); }
  // What follows from the number is not kept from step to step: there are not the registers.
  __device__ __forceinline__ static void Recompute(int& number) { asm volatile("" : "+r"(number)); }

  // use(round, panel, token, row of the panel, there) for the numbers of the block's panels, by all
  // lanes of warps: sixteen beside each other have a token's numbers of a panel.
  template <typename Use>
  __device__ __forceinline__ void ForOutputs(const PassStep& step, const PassUnits& units,
                                             const Use& use) const {
    const int rows = block_.there, all = units.Count(step) * rows * kTileRows;
#pragma unroll 1
    for (int from = thread_ - lane_; from < all; from += kFinishers) {
      const int i = from + lane_;
      const int round = i / kTileRows / rows, token = i / kTileRows % rows;
      use(units.round + round, units.unit + round * step.span, token, i % kTileRows, i < all);
    }
  }
  // Sends column `column` of the residual before layer `layer`, and the squares of its step. By all
  // lanes of a warp.
  __device__ __forceinline__ void Publish(int layer, const float* weight, int column, int token,
                                          float number, bool there) const {
    const bool weighs = weight != nullptr && there && column < program_.residual.columns;
    const uint32_t pair = PairOfLanes(weighs ? number * __ldg(weight + column) : number);
    const int first = lane_ / kTileRows * kTileRows, t = lane_ % 4 * 2;
    const auto other = [&](int place) { return __shfl_sync(kAllLanes, number, first + place); };
    const float a = other(t), b = other(t + 1), c = other(t + 8), d = other(t + 9);
    if (!there) return;
    if (column % 2 == 0) {
      block_.Send(OperandPlace(block_.Residual(layer), block_.there, column, token), pair);
    }
    if (column % kTileColumns < 4) {
      float* const squares =
          reinterpret_cast<float*>(block_.Squares(layer, token) + column / kTileColumns);
      block_.Send(squares + column % 4, __float_as_uint(SquaresOfStep(a, b, c, d)));
    }
  }

  // Scales of the rows that the step's product is normed by; a warp a row.
  __device__ __forceinline__ void MeasureRows(const PassStep& step, float epsilon) const {
    constexpr int kAtOnce = 5;
    const int rows = block_.Rows(step), steps = program_.residual_steps;
    for (int i = thread_ / kWarp; i < rows; i += kFinishers / kWarp) {
      const uint4* const from =
          reinterpret_cast<const uint4*>(block_.Squares(step.layer, block_.RowOf(step, i)));
      float4* const squares = block_.At<float4>(block_.place.squares) + i * steps;
      AwaitWord(from + steps - 1);
#pragma unroll 1
      for (int at = lane_; at < steps; at += kAtOnce * kWarp) {
        uint4 words[kAtOnce];
        const auto wanted = [&](int k) { return at + k * kWarp < steps; };
        TakeWords(words, wanted, [&](int k) { return from + at + k * kWarp; });
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          if (wanted(k)) reinterpret_cast<uint4*>(squares)[at + k * kWarp] = words[k];
        }
      }
      __syncwarp();
      const int eighth = lane_ / 4, end = PassEighth(steps, eighth + 1);
      float sum = 0;
#pragma unroll 5
      for (int at = PassEighth(steps, eighth); at < end; ++at) {
        sum += reinterpret_cast<const float*>(squares + at)[lane_ % 4];
      }
      sum = AddLanesOfToken(sum);
      float all = 0;
#pragma unroll
      for (int e = 0; e < kEighths; ++e) all += __shfl_sync(kAllLanes, sum, e * 4);
      if (lane_ == 0) {
        block_.Scales()[i] =
            ScaleOfSquares(all, static_cast<int>(program_.residual.columns), epsilon);
      }
    }
  }

  __device__ __forceinline__ void Channels(const PassStep& step, const PassUnits& units) {
    const PassMamba& layer = block_.Layer(step.layer);
    const auto item = [&](int i) { return PassConvolutionItem(block_, layer, step, units, i); };
    // A thread's first item is loaded before the layer's turn.
    PassConvolution first(block_, layer, item(thread_));
    MeasureRows(step, layer.epsilon);
    block_.AwaitCleanMail(step.layer);
    Meet();
    AwaitTurn(block_.Meeting(kChannelSums), channels_turn_);
    channels_turn_ ^= 1;
#pragma unroll 1
    for (int i = thread_; item(i).there; i += kFinishers) {
      const PassConvolutionItem at = item(i);
      block_.Input(at.round, at.row)[at.in_panel] =
          block_.SumOfEighths(block_.ChannelPlace(at.round), at.in_panel, at.row) *
          block_.Scales()[at.row];
    }
    Meet();
    first.Run(block_, step.layer);
#pragma unroll 1
    for (int i = kFinishers; item(i).there; i += kFinishers) {
      PassConvolution(block_, layer, item(thread_ + i)).Run(block_, step.layer);
    }
  }

  __device__ __forceinline__ void Scan(const PassStep& step, const PassUnits& units) {
    const PassMamba& layer = block_.Layer(step.layer);
    const int sequences = block_.batch().sequences, panels = units.Count(step);
    constexpr int kAtOnce = kFinishers / kScanThreads;
    bool ready = block_.there == 0;
    if (!ready) FetchDelta(layer, units, panels, step.span);
#pragma unroll 1
    for (int i = thread_ / kScanThreads, from = 0; from < panels * sequences;
         i += kAtOnce, from += kAtOnce) {
      const int round = i / sequences;
      PassScan scan(block_, layer, i < panels * sequences, units.round + round,
                    units.unit + round * step.span, i % sequences, thread_ % kScanThreads);
      if (!ready) {  // the first items' states are there meanwhile
        TakeSelection(step, layer);
        WaitForCopies<0>();
        Meet();
        ready = true;
      }
      scan.Run(step.layer, gates_turn_);
    }
    if (block_.there > 0) gates_turn_ ^= 1;
    // What nobody waits for, while gated y is on its way.
    const auto item = [&](int i) { return PassConvolutionItem(block_, layer, step, units, i); };
#pragma unroll 1
    for (int i = 0; item(i).there; i += kFinishers) KeepInput(block_, layer, item(thread_ + i));
    if (step.layer + 1 < program_.layer_count) {
      PrefetchLayer(block_, step.layer + 1, step, units, thread_);
    }
  }

  // dt's weights of the block's channels, on their way until WaitForCopies.
  __device__ __forceinline__ void FetchDelta(const PassMamba& layer, const PassUnits& units,
                                             int panels, int span) const {
    const int count = layer.delta_steps * kWarp;
#pragma unroll 1
    for (int round = 0; round < panels; ++round) {
      const uint4* const from = layer.delta + (units.unit + round * span) * count;
      uint4* const to = block_.Delta(units.round + round);
#pragma unroll 1
      for (int i = thread_; i < count; i += kFinishers) CopyAsync(to + i, from + i, true);
    }
    CommitCopies();
  }
  // dt_low as operands, B and C: the eighths of select added up, four numbers a thread.
  __device__ __forceinline__ void TakeSelection(const PassStep& step,
                                                const PassMamba& layer) const {
    const int quads = program_.select_stride / 4, all = block_.there * quads;
    const int apart = block_.there * quads;
    const uint4* const parts = reinterpret_cast<const uint4*>(block_.Parts(step.layer, 0));
#pragma unroll 1
    for (int i = thread_; i < all; i += kFinishers) {
      const int row = i / quads, first = i % quads * 4;
      uint4 words[kEighths];
      TakeWords(
          words, [](int) { return true; }, [&](int e) { return parts + i + e * apart; });
      float sums[4] = {};
#pragma unroll
      for (int e = 0; e < kEighths; ++e) {
        sums[0] += __uint_as_float(words[e].x);
        sums[1] += __uint_as_float(words[e].y);
        sums[2] += __uint_as_float(words[e].z);
        sums[3] += __uint_as_float(words[e].w);
      }
      if (first + 3 < layer.rank) {
        StoreLow(first, row, RoundPair(sums[0], sums[1]));
        StoreLow(first + 2, row, RoundPair(sums[2], sums[3]));
      } else {
#pragma unroll
        for (int k = 0; k < 4; ++k) PlaceSelected(layer, first + k, row, sums[k]);
      }
    }
  }
  __device__ __forceinline__ void StoreLow(int column, int row, uint32_t pair) const {
    *OperandPlace(block_.At<uint2>(block_.place.low), block_.there, column, row) = pair;
  }
  // Number i of what is selected; behind dt_low's, whole steps of columns are zeros.
  __device__ __forceinline__ void PlaceSelected(const PassMamba& layer, int i, int row,
                                                float number) const {
    if (i < layer.delta_steps * kTileColumns) {
      uint32_t* const pair =
          OperandPlace(block_.At<uint2>(block_.place.low), block_.there, i / 2 * 2, row);
      reinterpret_cast<__nv_bfloat16*>(pair)[i % 2] =
          __float2bfloat16_rn(i < layer.rank ? number : 0.0f);
    }
    const int n = i - layer.rank;
    if (n < 0 || n >= 2 * layer.state_size) return;
    block_.Selection(row)[n < layer.state_size ? n : kPassStateSize + n - layer.state_size] =
        number;
  }

  __device__ __forceinline__ void Output(const PassStep& step, const PassUnits& units) {
    const RowsView& residual = program_.residual;
    const PassMamba& layer = block_.Layer(step.layer);
    block_.AwaitCleanMail(step.layer + 1);
    AwaitTurn(block_.Meeting(kOutputSums), outputs_turn_);
    outputs_turn_ ^= 1;
    ForOutputs(step, units, [&](int round, int panel, int token, int row, bool there) {
      const int column = panel * kTileRows + row;
      float now = 0;
      if (there && column < residual.columns) {
        float* const at = residual.data + token * residual.stride + column;
        now = *at + block_.SumOfEighths(block_.OutputPlace(round), row, token);
        *at = now;
      }
      Publish(step.layer + 1, layer.next_norm_weight, column, token, now, there);
    });
    if (units.unit == 0) KeepRowsOfB(step, layer);
  }
  // Into replay rows, which by now all have read.
  __device__ __forceinline__ void KeepRowsOfB(const PassStep& step, const PassMamba& layer) const {
    for (int s = 0; s < block_.batch().sequences; ++s) {
      const SequenceRows rows = RowsOfSequence(block_.batch(), layer.state, s);
      for (int i = rows.kept; i < rows.total(); ++i) {
        if (thread_ >= layer.state_size) continue;
        KeptRow(rows, layer.state.layout, i)[2 * layer.inner + thread_] =
            SelectedNumber(step.layer, static_cast<int>(rows.call_row(i)), layer.rank + thread_);
      }
    }
  }
  // Number i of what is selected of a row.
  __device__ __forceinline__ float SelectedNumber(int layer, int row, int i) const {
    float sum = 0;
    for (int eighth = 0; eighth < kEighths; ++eighth) {
      const float* const part = block_.Parts(layer, eighth) + row * program_.select_stride + i;
      AwaitWord(part);
      sum += __uint_as_float(LoadFresh(reinterpret_cast<const uint32_t*>(part)));
    }
    return sum;
  }

  __device__ __forceinline__ void Head(const PassStep& step, PassUnits units) {
    static_assert(kFinishers >= kPassRows * kTileRows);
    const PassHead& head = program_.head;
    MeasureRows(step, head.norm.epsilon);
    Meet();
    const int token = thread_ / kTileRows, row = thread_ % kTileRows;
    const float scale = token < block_.logits ? block_.Scales()[token] : 0.0f;
    int place = 0;
    uint32_t turn = 0;
#pragma unroll 1
    for (; units.There(step); units.Advance(step)) {
      AwaitTurn(block_.Meeting(kHeadSums + place), turn);
      const int output = units.unit * kTileRows + row;
      if (token < block_.logits && output < head.outputs) {
        head.logits.data[token * head.logits.stride + output] =
            block_.SumOfEighths(place, row, token) * scale;
      }
      __syncwarp();
      if (lane_ == 0) Arrive(block_.Meeting(kHeadTaken + place));
      if (++place == block_.HeadPlaces()) place = 0, turn ^= 1;
    }
  }

  const PassBlock& block_;
  const PassProgram& program_;
  int thread_, lane_;
  uint32_t channels_turn_ = 0, gates_turn_ = 0, outputs_turn_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_FINISH_CUH_
