// What the threads of a block share while they walk a pass: eight warps that multiply, eight that
// finish what those have multiplied and compute all else, one that looks out for other blocks.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_BLOCK_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_BLOCK_CUH_

#include <cstdint>

#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/persistent_program.cuh"
#include "kernels/cuda/persistent_ring.cuh"
#include "kernels/cuda/persistent_sync.cuh"

namespace mambad::kernels::cuda {

inline constexpr int kMultipliers = kEighths * kWarp;
inline constexpr int kFinishers = kEighths * kWarp;
inline constexpr int kPassThreads = kMultipliers + kFinishers + kWarp;

// Barriers of a block (0: all of it).
inline constexpr int kFinishersMeet = 1;
inline constexpr int kSumsThere = 2, kSumsTaken = 4;  // + which of the two places
inline constexpr int kDeltaThere = 6;
inline constexpr int kBothSides = kMultipliers + kFinishers;

// Sums of a panel's eighths, [eighth][token][row]; tokens are 20 apart, for lanes of one store to
// meet all banks.
inline constexpr int kSumsRow = kTileRows + 4;
inline constexpr int kSumsEighth = kPassRows * kSumsRow;

struct PassBlock {
  const PassProgram& program;
  unsigned char* memory;
  const PassMemory& place;
  int there = 0;   // rows of the batch
  int logits = 0;  // rows of logits

  template <typename T>
  __device__ T* At(uint32_t bytes) const {
    return reinterpret_cast<T*>(memory + bytes);
  }
  __device__ const PassStep* Steps() const { return At<PassStep>(place.steps); }
  __device__ const PassMamba& Layer(const PassStep& step) const {
    return At<PassMamba>(place.layers)[step.layer];
  }
  __device__ const Batch& batch() const { return At<PassBatch>(place.batch)->batch; }
  __device__ uint32_t* Flag(int which) const { return At<uint32_t>(place.flags) + which; }
  __device__ uint32_t* Reached() const { return Flag(0); }     // exchanges that are over
  __device__ uint32_t* Selections() const { return Flag(1); }  // how often dt_low was there
  __device__ float* Sums(int which) const {
    return At<float>(place.sums) + which * (kEighths * kSumsEighth);
  }
  // Of the block's channels, [rounds][rows][16].
  __device__ float* Channels(int kind, int round, int row) const {
    return At<float>(place.channels) + ((kind * kPassRounds + round) * kPassRows + row) * kTileRows;
  }
  __device__ float* Input(int round, int row) const { return Channels(0, round, row); }
  __device__ float* Convolved(int round, int row) const { return Channels(1, round, row); }
  __device__ float* Gate(int round, int row) const { return Channels(2, round, row); }
  __device__ float* Delta(int round, int row) const { return Channels(3, round, row); }
  // B, then C, kPassStateSize each.
  __device__ float* Selection(int row) const {
    return At<float>(place.selection) + row * 2 * kPassStateSize;
  }
  // The row of the residual that a row of operands of kChannels or kHead stands for.
  __device__ const float* ResidualRow(const PassStep& step, int i) const {
    const int row = step.action == PassAction::kHead ? batch().logit_rows[i] : i;
    return program.residual.data + row * program.residual.stride;
  }
  // Of one eighth, [rows][select_stride]; two layers have their own.
  __device__ float* Parts(const PassStep& step, int eighth) const {
    return program.parts +
           (step.layer % 2 * kEighths + eighth) * (program.rows * program.select_stride);
  }

  __device__ void Signal(const PassStep& step) const {
    AddRelease(program.counts + step.signal - 1, 1);
  }
};

// What a lane brings to a right operand (linear_kernels.cuh): columns `column`, + 1, + 8, + 9 of a
// row that other blocks may have written in this launch. `whole`: the row has them all, and pairs
// may be read at once.
__device__ __forceinline__ TokenPairs FreshPairs(const float* row, int column, int columns,
                                                 bool whole) {
  const float* const from = row + column;
  if (whole) {
    return {__ldcg(reinterpret_cast<const float2*>(from)),
            __ldcg(reinterpret_cast<const float2*>(from + 8))};
  }
  const auto number = [&](int at) { return column + at < columns ? __ldcg(from + at) : 0.0f; };
  return {{number(0), number(1)}, {number(8), number(9)}};
}

// A number's place among right operands of `rows` rows, [steps][rows][4].
__device__ __forceinline__ uint16_t* OperandPlace(uint2* operands, int rows, int column, int row) {
  uint2* const pairs = operands + (column / kTileColumns * rows + row) * 4 + column % 8 / 2;
  return reinterpret_cast<uint16_t*>(pairs) + column % kTileColumns / 8 * 2 + column % 2;
}
__device__ __forceinline__ void StoreOperand(uint2* operands, int rows, int column, int row,
                                             float number) {
  const __nv_bfloat16 rounded = __float2bfloat16_rn(number);
  *OperandPlace(operands, rows, column, row) = *reinterpret_cast<const uint16_t*>(&rounded);
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_BLOCK_CUH_
