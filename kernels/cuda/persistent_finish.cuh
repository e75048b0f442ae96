// The finishing warps of a pass: they add up what the multiplying warps leave, and compute all that
// is no product, in the order of the steps.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_FINISH_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_FINISH_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_block.cuh"
#include "kernels/cuda/persistent_convolution.cuh"
#include "kernels/cuda/persistent_scan.cuh"

namespace mambad::kernels::cuda {

class PassFinisher {
 public:
  __device__ __forceinline__ explicit PassFinisher(const PassBlock& block)
      : block_(block), program_(block.program), thread_(threadIdx.x - kMultipliers) {}

  __device__ __forceinline__ void Walk() {
    for (int i = 0; i < program_.step_count; ++i) {
      const PassStep step = block_.Steps()[i];
      const PassUnits units(step);
      if (!units.There(step)) continue;
      switch (step.action) {
        case PassAction::kChannels:
          Channels(step, units);
          break;
        case PassAction::kGates:
          AddUp(step, units, block_.there, [&](int round, int, int token, int row, float sum) {
            block_.Gate(round, token)[row] = sum * scale_;
          });
          break;
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

 private:
  __device__ __forceinline__ void Meet() const { MeetAt(kFinishersMeet, kFinishers); }
  __device__ __forceinline__ void Signal(const PassStep& step) const {
    Meet();
    if (thread_ == 0) block_.Signal(step);
  }
  __device__ __forceinline__ void Await(int32_t exchange) const {
    while (LookAtFlag(block_.Reached()) < static_cast<uint32_t>(exchange)) {
    }
    __syncwarp();
  }
  // What a thread adds up: of every second panel one token and row.
  __device__ __forceinline__ int Token() const { return thread_ % (kFinishers / 2) / kTileRows; }

  // take(round, panel, token, row of the panel, sum) for the numbers of the step's panels.
  template <typename Take>
  __device__ __forceinline__ void AddUp(const PassStep& step, PassUnits units, int there,
                                        const Take& take) {
    const int token = Token(), row = thread_ % kTileRows;
    for (; units.There(step); units.Advance(step)) {
      const int which = panels_ % 2;
      MeetAt(kSumsThere + which, kBothSides);
      if (thread_ / (kFinishers / 2) == which && token < there) {
        const float* const sums = block_.Sums(which) + token * kSumsRow + row;
        float sum = 0;
#pragma unroll
        for (int eighth = 0; eighth < kEighths; ++eighth) sum += sums[eighth * kSumsEighth];
        take(units.round, units.unit, token, row, sum);
      }
      PassBy(kSumsTaken + which, kBothSides);
      ++panels_;
    }
  }

  // scale_ of this thread's token; rows are the batch's, or those whose logits are wanted.
  __device__ __forceinline__ void MeasureRows(const PassStep& step, const NormWeights& norm,
                                              int there) {
    const int eighth = thread_ / kWarp, token = thread_ % kWarp / 4, lane = thread_ % kWarp;
    const int begin = EighthBegin(step.steps, eighth), end = EighthBegin(step.steps, eighth + 1);
    const int columns = static_cast<int>(program_.residual.columns);
    float sum = 0;
    if (token < there) {
      const float* const x = block_.ResidualRow(step, token);
      const int column = lane % 4 * 2;
      if (end * kTileColumns <= columns) {
#pragma unroll 10
        for (int at = begin; at < end; ++at) {
          sum = AddSquares(FreshPairs(x, at * kTileColumns + column, columns, true), sum);
        }
      } else {
        for (int at = begin; at < end; ++at) {
          sum = AddSquares(FreshPairs(x, at * kTileColumns + column, columns, false), sum);
        }
      }
    }
    sum = AddLanesOfToken(sum);
    float* const squares = block_.At<float>(block_.place.squares);
    if (lane % 4 == 0) squares[eighth * kGroupTokens + token] = sum;
    Meet();
    scale_ = FinishScale(reinterpret_cast<const float(*)[kGroupTokens]>(squares), Token(), columns,
                         norm.epsilon);
  }

  __device__ __forceinline__ void Channels(const PassStep& step, const PassUnits& units) {
    const PassMamba& layer = block_.Layer(step);
    // Up to two items a thread: loaded before this layer's turn.
    PassConvolution first(block_, layer, units, step.span, thread_);
    PassConvolution second(block_, layer, units, step.span, thread_ + kFinishers);
    Await(step.wait);
    MeasureRows(step, layer.norm, block_.there);
    AddUp(step, units, block_.there, [&](int round, int, int token, int row, float sum) {
      block_.Input(round, token)[row] = sum * scale_;
    });
    Meet();
    first.Run(block_);
    second.Run(block_);
    Signal(step);
    first.Keep(block_);
    second.Keep(block_);
  }

  __device__ __forceinline__ void Scan(const PassStep& step, const PassUnits& units) {
    const PassMamba& layer = block_.Layer(step);
    const int sequences = block_.batch().sequences, apart = step.span;
    const int panels = min(int{step.end_round}, (step.units - 1 - units.unit) / apart + 1);
    constexpr int kAtOnce = kFinishers / kScanThreads;
    const auto item = [&](int i) {
      return PassScan(block_, layer, i < panels * sequences, i / sequences,
                      units.unit + i / sequences * apart, i % sequences, thread_ % kScanThreads);
    };
    int i = thread_ / kScanThreads;
    PassScan first = item(i);
    Await(step.wait);
    TakeSelection(step, layer);
    Meet();
    if (thread_ == 0) RaiseFlag(block_.Selections(), ++selections_);
    MeetAt(kDeltaThere, kBothSides);
    first.Run(block_, layer);
    for (i += kAtOnce; i < panels * sequences; i += kAtOnce) item(i).Run(block_, layer);
    Signal(step);
  }

  // dt_low as operands, B and C: the eighths of select added up.
  __device__ __forceinline__ void TakeSelection(const PassStep& step, const PassMamba& layer) {
    const int rank_columns = (layer.rank + kTileColumns - 1) / kTileColumns * kTileColumns;
    const int wanted = layer.rank + 2 * layer.state_size;
    uint2* const low = block_.At<uint2>(block_.place.low);
    for (int row = 0; row < block_.there; ++row) {
      for (int i = thread_; i < wanted; i += kFinishers) {
        const float sum = Selected(step, row, i);
        if (i < layer.rank) {
          StoreOperand(low, program_.rows, i, row, sum);
        } else {
          const int n = i - layer.rank, at = n % layer.state_size;
          block_.Selection(row)[n < layer.state_size ? at : kPassStateSize + at] = sum;
        }
      }
      for (int i = layer.rank + thread_; i < rank_columns; i += kFinishers) {
        StoreOperand(low, program_.rows, i, row, 0.0f);
      }
    }
  }
  __device__ __forceinline__ float Selected(const PassStep& step, int row, int i) const {
    float parts[kEighths], sum = 0;
    const int at = row * program_.select_stride + i;
#pragma unroll
    for (int eighth = 0; eighth < kEighths; ++eighth) {
      parts[eighth] = __ldcg(block_.Parts(step, eighth) + at);
    }
#pragma unroll
    for (int eighth = 0; eighth < kEighths; ++eighth) sum += parts[eighth];
    return sum;
  }

  __device__ __forceinline__ void Output(const PassStep& step, const PassUnits& units) {
    Await(step.wait);
    const RowsView& residual = program_.residual;
    AddUp(step, units, block_.there, [&](int, int panel, int token, int row, float sum) {
      const int column = panel * kTileRows + row;
      if (column >= residual.columns) return;
      float* const to = residual.data + token * residual.stride + column;
      *to = __ldcg(to) + sum;
    });
    Signal(step);
    if (units.unit == 0) KeepRowsOfB(step, block_.Layer(step));
  }
  // Into replay rows, which by now all have read.
  __device__ __forceinline__ void KeepRowsOfB(const PassStep& step, const PassMamba& layer) {
    for (int s = 0; s < block_.batch().sequences; ++s) {
      const SequenceRows rows = RowsOfSequence(block_.batch(), layer.state, s);
      for (int i = rows.kept; i < rows.total(); ++i) {
        float* const to = KeptRow(rows, layer.state.layout, i) + 2 * layer.inner;
        const int row = static_cast<int>(rows.call_row(i));
        for (int n = thread_; n < layer.state_size; n += kFinishers) {
          to[n] = Selected(step, row, layer.rank + n);
        }
      }
    }
  }

  __device__ __forceinline__ void Head(const PassStep& step, const PassUnits& units) {
    const PassHead& head = program_.head;
    Await(step.wait);
    MeasureRows(step, head.norm, block_.logits);
    AddUp(step, units, block_.logits, [&](int, int panel, int token, int row, float sum) {
      const int output = panel * kTileRows + row;
      if (output < head.outputs)
        head.logits.data[token * head.logits.stride + output] = sum * scale_;
    });
  }

  const PassBlock& block_;
  const PassProgram& program_;
  const int thread_;
  int panels_ = 0;
  uint32_t selections_ = 0;
  float scale_ = 0;  // of this thread's token
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_FINISH_CUH_
