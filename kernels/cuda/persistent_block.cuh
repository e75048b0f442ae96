// What the threads of a block share while they walk a pass: eight warps that multiply, and eight
// that finish what those have multiplied and compute all else.

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
inline constexpr int kFinishers = 8 * kWarp;
inline constexpr int kPassThreads = kMultipliers + kFinishers;

// Barriers of a block (0: all of it).
inline constexpr int kFinishersMeet = 1;
inline constexpr int kSumsThere = 2, kSumsTaken = 4;  // + which of the two places
inline constexpr int kDeltaThere = 6;

// Sums of a panel's eighths, [eighth][token][row]; tokens are 20 apart, for lanes of one store to
// meet all banks.
inline constexpr int kSumsRow = kTileRows + 4;
inline constexpr int kSumsEighth = kPassRows * kSumsRow;

struct PassBlock {
  const PassProgram& program;
  unsigned char* memory;
  const PassMemory& place;
  unsigned char* mail = nullptr;  // of this launch's set
  int there = 0;                  // rows of the batch
  int logits = 0;                 // rows of logits

  template <typename T>
  __device__ __forceinline__ T* At(uint32_t bytes) const {
    return reinterpret_cast<T*>(memory + bytes);
  }
  __device__ __forceinline__ const PassStep* Steps() const { return At<PassStep>(place.steps); }
  __device__ __forceinline__ const PassMamba& Layer(const PassStep& step) const {
    return At<PassMamba>(place.layers)[step.layer];
  }
  __device__ __forceinline__ const Batch& batch() const {
    return At<PassBatch>(place.batch)->batch;
  }
  // How often dt_low was there.
  __device__ __forceinline__ uint32_t* Selections() const { return At<uint32_t>(place.flags); }
  __device__ __forceinline__ float* Sums(int which) const {
    return At<float>(place.sums) + which * (kEighths * kSumsEighth);
  }
  // Of the block's channels, [rounds][rows][16].
  __device__ __forceinline__ float* Channels(int kind, int round, int row) const {
    return At<float>(place.channels) + ((kind * kPassRounds + round) * kPassRows + row) * kTileRows;
  }
  __device__ __forceinline__ float* Input(int round, int row) const {
    return Channels(0, round, row);
  }
  __device__ __forceinline__ float* Convolved(int round, int row) const {
    return Channels(1, round, row);
  }
  __device__ __forceinline__ float* Gate(int round, int row) const {
    return Channels(2, round, row);
  }
  __device__ __forceinline__ float* Delta(int round, int row) const {
    return Channels(3, round, row);
  }
  // B, then C, kPassStateSize each.
  __device__ __forceinline__ float* Selection(int row) const {
    return At<float>(place.selection) + row * 2 * kPassStateSize;
  }

  // Mail of a layer.
  __device__ __forceinline__ unsigned char* Mail(int layer, uint32_t part) const {
    return mail + int64_t{layer} * program.layer_mail.end + part;
  }
  __device__ __forceinline__ uint2* X(int layer) const {
    return reinterpret_cast<uint2*>(Mail(layer, program.layer_mail.x));
  }
  __device__ __forceinline__ uint2* Gated(int layer) const {
    return reinterpret_cast<uint2*>(Mail(layer, program.layer_mail.gated));
  }
  __device__ __forceinline__ float* Parts(int layer, int eighth) const {
    return reinterpret_cast<float*>(Mail(layer, program.layer_mail.parts)) +
           eighth * there * program.select_stride;
  }
  // Row `row` of the residual before layer `layer`, whole steps of columns, with zeros behind those
  // that there are.
  __device__ __forceinline__ float* ResidualBefore(int layer, int row) const {
    return reinterpret_cast<float*>(Mail(layer, program.layer_mail.residual)) +
           row * program.residual_steps * kTileColumns;
  }
  // The row of the residual that row i of what kChannels or kHead multiply is.
  __device__ __forceinline__ int RowOf(const PassStep& step, int i) const {
    return step.action == PassAction::kHead ? batch().logit_rows[i] : i;
  }
  __device__ __forceinline__ int Rows(const PassStep& step) const {
    return step.action == PassAction::kHead ? logits : there;
  }

  // Writes a word of a layer's mail; the next layer's place comes near meanwhile.
  __device__ __forceinline__ void Send(void* to, uint32_t word) const {
    StoreFresh(static_cast<uint32_t*>(to), word == kUnset ? 0x7fffffffu : word);
    PrefetchLine(static_cast<unsigned char*>(to) + program.layer_mail.end);
  }
};

__device__ __forceinline__ bool Missing(float number) { return __float_as_uint(number) == kUnset; }
__device__ __forceinline__ bool Missing(const uint4& words) {
  return words.x == kUnset || words.y == kUnset || words.z == kUnset || words.w == kUnset;
}
__device__ __forceinline__ bool Missing(const TokenPairs& u) {
  return Missing(u.low.x) || Missing(u.low.y) || Missing(u.high.x) || Missing(u.high.y);
}

// What a lane brings to a right operand (linear_kernels.cuh) of a row by mail: columns `column`,
// + 1, + 8, + 9.
__device__ __forceinline__ TokenPairs FreshPairs(const float* row, int column) {
  return {LoadFresh(reinterpret_cast<const float2*>(row + column)),
          LoadFresh(reinterpret_cast<const float2*>(row + column + 8))};
}

// A pair's place among right operands of `rows` rows, [steps][rows][4]; `column` is even.
__device__ __forceinline__ uint32_t* OperandPlace(uint2* operands, int rows, int column, int row) {
  uint2* const pairs = operands + (column / kTileColumns * rows + row) * 4 + column % 8 / 2;
  return reinterpret_cast<uint32_t*>(pairs) + column % kTileColumns / 8;
}
// The numbers of two lanes beside each other, columns 2 k and 2 k + 1, rounded. All lanes of a
// warp.
__device__ __forceinline__ uint32_t PairOfLanes(float number) {
  const float other = __shfl_xor_sync(kAllLanes, number, 1);
  return threadIdx.x % 2 == 0 ? RoundPair(number, other) : RoundPair(other, number);
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_BLOCK_CUH_
