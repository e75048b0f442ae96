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
    const bool rows = block_.there > 0;
#pragma unroll 1
    for (int i = 0; i < program_.layer_count; ++i) {
      const PassLayer& layer = block_.Layer(i);
      if (rows && block_.channel_rounds > 0) Channels(i, layer);
      // Without rows states may be stored, and nothing else happens.
      if (block_.channel_rounds > 0) Scan(i, layer);
      if (rows && block_.output_rounds > 0) Output(i, layer);
    }
    if (program_.step_count == program_.layer_count * kLayerSteps) return;
    const PassStep head = block_.Step(program_.step_count - 1);
    if (!block_.Skips(head)) Head(head, PassUnits(head));
  }

  // The residual before the first layer, of the columns that are the block's.
  __device__ __forceinline__ void SendFirst() const {
    const RowsView& residual = program_.residual;
    ForOutputs([&](int, const PassPart& part, int token, int row, bool there) {
      const int column = part.unit * kTileRows + row;
      float number = 0;
      if (there && column < residual.columns) {
        number = residual.data[token * residual.stride + column];
      }
      Publish(0, block_.Layer(0).norm_weight, part, row, token, number, there);
    });
  }

 private:
  __device__ __forceinline__ void Meet() const { MeetAt(kFinishersMeet, kFinishers); }
  // What follows from the number is not kept from step to step: there are not the registers.
  __device__ __forceinline__ static void Recompute(int& number) { asm volatile("" : "+r"(number)); }

  // use(round, its part, token, row of the panel, there) for the block's outputs, by all lanes of
  // warps: sixteen beside each other have a token's numbers of a panel, of which some may not be
  // the block's.
  template <typename Use>
  __device__ __forceinline__ void ForOutputs(const Use& use) const {
    const int rows = block_.there, all = block_.output_rounds * rows * kTileRows;
#pragma unroll 1
    for (int from = thread_ - lane_; from < all; from += kFinishers) {
      const unsigned i = min(from + lane_, all - 1), number = i / kTileRows;
      const int round = number / static_cast<unsigned>(rows);
      use(round, block_.Outputs(round), static_cast<int>(number) - round * rows, i % kTileRows,
          from + lane_ < all);
    }
  }
  // Sends column `row` of a step of the residual before layer `layer`, and the squares of its step.
  // By all lanes of a warp.
  __device__ __forceinline__ void Publish(int layer, const float* weight, const PassPart& part,
                                          int row, int token, float number, bool there) const {
    const int column = part.unit * kTileRows + row;
    const bool weighs = weight != nullptr && there && column < program_.residual.columns;
    const uint32_t pair = PairOfLanes(weighs ? number * __ldg(weight + column) : number);
    const int first = lane_ / kTileRows * kTileRows, t = lane_ % 4 * 2;
    const auto other = [&](int place) { return __shfl_sync(kAllLanes, number, first + place); };
    const float a = other(t), b = other(t + 1), c = other(t + 8), d = other(t + 9);
    if (!there) return;
    if (row % 2 == 0 && part.HasRow(row)) {
      block_.Send(OperandPlace(block_.Residual(layer), block_.there, column, token), pair);
    }
    if (row < 4 && part.HasPair(row)) {
      float* const squares = reinterpret_cast<float*>(block_.Squares(layer, token) + part.unit);
      block_.Send(squares + row, __float_as_uint(SquaresOfStep(a, b, c, d)));
    }
  }

  // Scales of `rows` rows, which are those before layer `layer`; a warp each. row_of(i): row i.
  template <typename RowOf>
  __device__ __forceinline__ void MeasureRows(int layer, float epsilon, int rows,
                                              const RowOf& row_of) const {
    constexpr int kAtOnce = 10;
    const int steps = program_.residual_steps;
    const int eighth = lane_ / 4, end = PassEighth(steps, eighth + 1);
    for (int i = thread_ / kWarp; i < rows; i += kFinishers / kWarp) {
      const float4* const squares = block_.Squares(layer, row_of(i));
      const uint32_t* const from = reinterpret_cast<const uint32_t*>(squares) + lane_ % 4;
      AwaitWord(squares + steps - 1);
      float sum = 0;
#pragma unroll 1
      for (int at = PassEighth(steps, eighth); at < end; at += kAtOnce) {
        uint32_t words[kAtOnce];
        const auto wanted = [&](int k) { return at + k < end; };
        TakeWords(words, wanted, [&](int k) { return from + (at + k) * 4; });
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          if (wanted(k)) sum += __uint_as_float(words[k]);
        }
      }
      __syncwarp();
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

  __device__ __forceinline__ void Channels(int index, const PassLayer& layer) {
    Recompute(thread_), Recompute(lane_);
    const auto item = [&](int i) { return PassConvolutionItem(block_, i); };
    // A thread's first item is loaded before the layer's turn.
    PassConvolution first(block_, layer, item(thread_));
    MeasureRows(index, layer.epsilon, block_.there, [](int i) { return i; });
    block_.AwaitCleanMail(index);
    Meet();
    AwaitTurn(block_.Meeting(kChannelSums), channels_turn_);
    channels_turn_ ^= 1;
#pragma unroll 1
    for (int i = thread_; item(i).listed; i += kFinishers) {
      const PassConvolutionItem at = item(i);
      block_.Input(at.round, at.row)[at.in_panel] =
          block_.SumOfEighths(block_.ChannelPlace(at.round), at.in_panel, at.row) *
          block_.Scales()[at.row];
    }
    Meet();
    first.Run(block_, index);
#pragma unroll 1
    for (int i = kFinishers; item(i).listed; i += kFinishers) {
      PassConvolution(block_, layer, item(thread_ + i)).Run(block_, index);
    }
  }

  __device__ __forceinline__ void Scan(int index, const PassLayer& layer) {
    Recompute(thread_), Recompute(lane_);
    const int sequences = block_.batch().sequences, rounds = block_.channel_rounds;
    constexpr int kAtOnce = kFinishers / kScanThreads;
    bool ready = block_.there == 0;
    if (!ready) FetchDelta(layer);
#pragma unroll 1
    for (int i = thread_ / kScanThreads, from = 0; from < rounds * sequences;
         i += kAtOnce, from += kAtOnce) {
      const bool there = i < rounds * sequences;
      const unsigned round =
          there ? static_cast<unsigned>(i) / static_cast<unsigned>(sequences) : 0;
      PassScan scan(block_, layer, there, round, block_.Channels(round), i - round * sequences,
                    thread_ % kScanThreads);
      if (!ready) {  // the first items' states are there meanwhile
        TakeSelection(index);
        WaitForCopies<0>();
        Meet();
        ready = true;
      }
      scan.Run(index, gates_turn_);
    }
    if (block_.there > 0) gates_turn_ ^= 1;
    // What nobody waits for, while gated y is on its way.
    Recompute(thread_), Recompute(lane_);
    const auto item = [&](int i) { return PassConvolutionItem(block_, i); };
#pragma unroll 1
    for (int i = 0; item(i).listed; i += kFinishers) KeepInput(block_, layer, item(thread_ + i));
    if (index + 1 < program_.layer_count) PrefetchLayer(block_, index + 1, thread_);
  }

  // dt's weights of the block's channels, on their way until WaitForCopies.
  __device__ __forceinline__ void FetchDelta(const PassLayer& layer) const {
    const int count = program_.mamba.delta_steps * kWarp;
#pragma unroll 1
    for (int round = 0; round < block_.channel_rounds; ++round) {
      const uint4* const from = layer.delta + block_.Channels(round).unit * count;
      uint4* const to = block_.Delta(round);
#pragma unroll 1
      for (int i = thread_; i < count; i += kFinishers) CopyAsync(to + i, from + i, true);
    }
    CommitCopies();
  }
  // dt_low as operands, B and C: the eighths of select added up, four numbers a thread.
  __device__ __forceinline__ void TakeSelection(int index) const {
    const int quads = program_.select_stride / 4, all = block_.there * quads;
    const int apart = block_.there * quads;
    const uint4* const parts = reinterpret_cast<const uint4*>(block_.Parts(index, 0));
#pragma unroll 1
    for (int i = thread_; i < all; i += kFinishers) {
      const int row = static_cast<unsigned>(i) / static_cast<unsigned>(quads);
      const int first = (i - row * quads) * 4;
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
      if (first + 3 < program_.mamba.rank) {
        StoreLow(first, row, RoundPair(sums[0], sums[1]));
        StoreLow(first + 2, row, RoundPair(sums[2], sums[3]));
      } else {
#pragma unroll
        for (int k = 0; k < 4; ++k) PlaceSelected(first + k, row, sums[k]);
      }
    }
  }
  __device__ __forceinline__ void StoreLow(int column, int row, uint32_t pair) const {
    *OperandPlace(block_.At<uint2>(block_.place.low), block_.there, column, row) = pair;
  }
  // Number i of what is selected; behind dt_low's, whole steps of columns are zeros.
  __device__ __forceinline__ void PlaceSelected(int i, int row, float number) const {
    if (i < program_.mamba.delta_steps * kTileColumns) {
      uint32_t* const pair =
          OperandPlace(block_.At<uint2>(block_.place.low), block_.there, i / 2 * 2, row);
      reinterpret_cast<__nv_bfloat16*>(pair)[i % 2] =
          __float2bfloat16_rn(i < program_.mamba.rank ? number : 0.0f);
    }
    const int n = i - program_.mamba.rank;
    if (n < 0 || n >= 2 * program_.mamba.state_size) return;
    block_.Selection(
        row)[n < program_.mamba.state_size ? n : kPassStateSize + n - program_.mamba.state_size] =
        number;
  }

  __device__ __forceinline__ void Output(int index, const PassLayer& layer) {
    Recompute(thread_), Recompute(lane_);
    const RowsView& residual = program_.residual;
    block_.AwaitCleanMail(index + 1);
    AwaitTurn(block_.Meeting(kOutputSums), outputs_turn_);
    outputs_turn_ ^= 1;
    ForOutputs([&](int round, const PassPart& part, int token, int row, bool there) {
      const int column = part.unit * kTileRows + row;
      float now = 0;
      if (there && column < residual.columns && part.HasRow(row)) {
        float* const number = residual.data + token * residual.stride + column;
        now = *number + block_.SumOfEighths(block_.OutputPlace(round), row, token);
        *number = now;
      }
      Publish(index + 1, layer.next_norm_weight, part, row, token, now, there);
    });
    const PassPart first = block_.Outputs(0);
    if (first.unit == 0 && first.part == 0) KeepRowsOfB(index, layer);
  }
  // Into replay rows, which by now all have read.
  __device__ __forceinline__ void KeepRowsOfB(int index, const PassLayer& layer) const {
    for (int s = 0; s < block_.batch().sequences; ++s) {
      const SequenceRows rows = block_.RowsOf(layer, s);
      for (int i = rows.kept; i < rows.total(); ++i) {
        if (thread_ >= program_.mamba.state_size) continue;
        KeptRow(rows, program_.mamba.state.layout, i)[2 * program_.mamba.inner + thread_] =
            SelectedNumber(index, static_cast<int>(rows.call_row(i)),
                           program_.mamba.rank + thread_);
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
    MeasureRows(step.layer, head.norm.epsilon, block_.logits,
                [&](int i) { return block_.batch().logit_rows[i]; });
    Meet();
    const int token = thread_ / kTileRows, row = thread_ % kTileRows;
    const float scale = token < block_.logits ? block_.Scales()[token] : 0.0f;
    int place = 0;
    uint32_t turn = 0;
#pragma unroll 1
    for (; units.There(step); units.Advance(step)) {
      AwaitTurn(block_.Meeting(kHeadSums + place), turn);
      const int output = units.unit * kTileRows + row;
      if (token < block_.logits && output < head.outputs && units.HasRow(row)) {
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
