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
          AddUp(step, units, block_.there, Nothing,
                [&](int round, int, int token, int row, float sum, float) {
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
  // What a thread adds up, of every kSides-th panel: one token and row.
  static constexpr int kPanelThreads = kGroupTokens * kTileRows;
  static constexpr int kSides = kFinishers / kPanelThreads;
  __device__ __forceinline__ int Token() const { return thread_ % kPanelThreads / kTileRows; }

  // take(round, panel, token, row of the panel, sum, before) for the numbers of the step's panels;
  // before: what load(panel, token, row) gave before the sum was there.
  template <typename Load, typename Take>
  __device__ __forceinline__ void AddUp(const PassStep& step, PassUnits units, int there,
                                        const Load& load, const Take& take) {
    const int token = Token(), row = thread_ % kTileRows;
    for (; units.There(step); units.Advance(step)) {
      const int which = panels_ % 2;
      const bool mine = thread_ / kPanelThreads == panels_ % kSides && token < there;
      const float before = mine ? load(units.unit, token, row) : 0.0f;
      MeetAt(kSumsThere + which, kPassThreads);
      if (mine) {
        const float* const sums = block_.Sums(which) + token * kSumsRow + row;
        float sum = 0;
#pragma unroll
        for (int eighth = 0; eighth < kEighths; ++eighth) sum += sums[eighth * kSumsEighth];
        take(units.round, units.unit, token, row, sum, before);
      }
      PassBy(kSumsTaken + which, kPassThreads);
      ++panels_;
    }
  }
  __device__ __forceinline__ static void Pause() { __nanosleep(20); }
  __device__ __forceinline__ static float Nothing(int, int, int) { return 0.0f; }

  // scale_ of this thread's token.
  __device__ __forceinline__ void MeasureRows(const PassStep& step, const NormWeights& norm) {
    const int token = thread_ % kWarp / 4, there = block_.Rows(step);
    float* const squares = block_.At<float>(block_.place.squares);
    const float* const x =
        token < there ? block_.ResidualBefore(step.layer, block_.RowOf(step, token)) : nullptr;
#pragma unroll 1
    for (int eighth = thread_ / kWarp; eighth < kEighths; eighth += kFinishers / kWarp) {
      const int begin = EighthBegin(step.steps, eighth), end = EighthBegin(step.steps, eighth + 1);
      float sum = 0;
      if (token < there && begin < end) sum = SumOfSquares(x, begin, end);
      sum = AddLanesOfToken(sum);
      if (thread_ % 4 == 0) squares[eighth * kGroupTokens + token] = sum;
    }
    Meet();
    scale_ = FinishScale(reinterpret_cast<const float(*)[kGroupTokens]>(squares), Token(),
                         static_cast<int>(program_.residual.columns), norm.epsilon);
  }
  // Of steps [begin, end) of a row, this lane's columns.
  __device__ __forceinline__ float SumOfSquares(const float* x, int begin, int end) const {
    constexpr int kAtOnce = 5;
    while (Missing(LoadFresh(x + end * kTileColumns - 1))) Pause();
    float sum = 0;
#pragma unroll 1
    for (int from = begin; from < end; from += kAtOnce) {
      TokenPairs u[kAtOnce];
      bool missing;
      do {
        missing = false;
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          u[k] = FreshPairs(x, min(from + k, end - 1) * kTileColumns + thread_ % 4 * 2);
          missing = missing || Missing(u[k]);
        }
      } while (missing);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (from + k < end) sum = AddSquares(u[k], sum);
      }
    }
    return sum;
  }

  __device__ __forceinline__ void Channels(const PassStep& step, const PassUnits& units) {
    const PassMamba& layer = block_.Layer(step);
    const auto item = [&](int i) { return PassConvolutionItem(block_, layer, step, units, i); };
    // A thread's first item is loaded before the layer's turn.
    PassConvolution first(block_, layer, item(thread_));
    MeasureRows(step, layer.norm);
    AddUp(step, units, block_.there, Nothing,
          [&](int round, int, int token, int row, float sum, float) {
            block_.Input(round, token)[row] = sum * scale_;
          });
    Meet();
    first.Run(block_, step.layer);
#pragma unroll 1
    for (int i = kFinishers; item(i).there; i += kFinishers) {
      PassConvolution(block_, layer, item(thread_ + i)).Run(block_, step.layer);
    }
    Meet();
#pragma unroll 1
    for (int i = 0; item(i).there; i += kFinishers) KeepInput(block_, layer, item(thread_ + i));
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
    bool ready = false;
#pragma unroll 1
    for (int i = thread_ / kScanThreads, from = 0; from < panels * sequences;
         i += kAtOnce, from += kAtOnce) {
      PassScan scan = item(i);
      if (!ready) {  // the first items' states are there meanwhile
        TakeSelection(step, layer);
        Meet();
        if (thread_ == 0) RaiseFlag(block_.Selections(), ++selections_);
        MeetAt(kDeltaThere, kPassThreads);
        ready = true;
      }
      scan.Run(block_, layer, step.layer);
    }
  }

  // dt_low as operands, B and C: the eighths of select added up.
  __device__ __forceinline__ void TakeSelection(const PassStep& step, const PassMamba& layer) {
    const int rank_columns = (layer.rank + kTileColumns - 1) / kTileColumns * kTileColumns;
    const int wanted = layer.rank + 2 * layer.state_size;
    TakeNumbers<1>(step, layer, wanted);
    for (int row = 0; row < block_.there; ++row) {
      for (int i = layer.rank + thread_; i < rank_columns; i += kFinishers) StoreLow(i, row, 0.0f);
    }
  }
  // kAtOnce numbers a thread are asked for at once.
  template <int kAtOnce>
  __device__ __forceinline__ void TakeNumbers(const PassStep& step, const PassMamba& layer,
                                              int wanted) {
    const int all = block_.there * wanted;
#pragma unroll 1
    for (int from = thread_; from < all; from += kAtOnce * kFinishers) {
      float sums[kAtOnce];
      Selected<kAtOnce>(step, wanted, from, all, sums);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int place = from + k * kFinishers, row = place / wanted, i = place % wanted;
        if (place >= all) break;
        if (i < layer.rank) {
          StoreLow(i, row, sums[k]);
        } else {
          const int n = i - layer.rank, at = n % layer.state_size;
          block_.Selection(row)[n < layer.state_size ? at : kPassStateSize + at] = sums[k];
        }
      }
    }
  }
  __device__ __forceinline__ void StoreLow(int column, int row, float number) const {
    uint2* const low = block_.At<uint2>(block_.place.low);
    uint32_t* const pair = OperandPlace(low, block_.there, column / 2 * 2, row);
    reinterpret_cast<__nv_bfloat16*>(pair)[column % 2] = __float2bfloat16_rn(number);
  }
  // Numbers of select, [rows][wanted], `from` and every kFinishers-th behind it: their eighths,
  // when they are there, added up.
  template <int kAtOnce>
  __device__ __forceinline__ void Selected(const PassStep& step, int wanted, int from, int all,
                                           float (&sums)[kAtOnce]) const {
    const int apart = block_.there * program_.select_stride;
    const float* const parts = block_.Parts(step.layer, 0);
    const auto place = [&](int k) {
      const int at = min(from + k * kFinishers, all - 1);
      return parts + at / wanted * program_.select_stride + at % wanted;
    };
    while (Missing(LoadFresh(place(0) + (kEighths - 1) * apart))) Pause();
    float eighths[kAtOnce][kEighths];
    bool missing;
    do {
      missing = false;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
        for (int e = 0; e < kEighths; ++e) {
          eighths[k][e] = LoadFresh(place(k) + e * apart);
          missing = missing || Missing(eighths[k][e]);
        }
      }
    } while (missing);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      sums[k] = 0;
#pragma unroll
      for (int e = 0; e < kEighths; ++e) sums[k] += eighths[k][e];
    }
  }

  __device__ __forceinline__ void Output(const PassStep& step, const PassUnits& units) {
    const RowsView& residual = program_.residual;
    const auto load = [&](int panel, int token, int row) {
      const float* const from = block_.ResidualBefore(step.layer, token) + panel * kTileRows + row;
      float before;
      do {
        before = LoadFresh(from);
      } while (Missing(before));
      return before;
    };
    AddUp(step, units, block_.there, load,
          [&](int, int panel, int token, int row, float sum, float before) {
            const int column = panel * kTileRows + row;
            const bool there = column < residual.columns;
            const float now = there ? before + sum : 0.0f;
            block_.Send(block_.ResidualBefore(step.layer + 1, token) + column,
                        __float_as_uint(now));
            if (there) residual.data[token * residual.stride + column] = now;
          });
    if (units.unit == 0) KeepRowsOfB(step, block_.Layer(step));
  }
  // Into replay rows, which by now all have read.
  __device__ __forceinline__ void KeepRowsOfB(const PassStep& step, const PassMamba& layer) {
    for (int s = 0; s < block_.batch().sequences; ++s) {
      const SequenceRows rows = RowsOfSequence(block_.batch(), layer.state, s);
      for (int i = rows.kept; i < rows.total(); ++i) {
        float* const to = KeptRow(rows, layer.state.layout, i) + 2 * layer.inner;
        const int row = static_cast<int>(rows.call_row(i));
        const int wanted = layer.rank + 2 * layer.state_size;
        const int all = block_.there * wanted;
        if (thread_ < layer.state_size) {
          float sum[1];
          Selected<1>(step, wanted, row * wanted + layer.rank + thread_, all, sum);
          to[thread_] = sum[0];
        }
      }
    }
  }

  __device__ __forceinline__ void Head(const PassStep& step, const PassUnits& units) {
    const PassHead& head = program_.head;
    MeasureRows(step, head.norm);
    AddUp(step, units, block_.logits, Nothing,
          [&](int, int panel, int token, int row, float sum, float) {
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
