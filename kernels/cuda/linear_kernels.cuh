// What the kernels of a product share: what they are told, how rows of x become operands, how a
// finished sum reaches y.

#ifndef MAMBAD_KERNELS_CUDA_LINEAR_KERNELS_CUH_
#define MAMBAD_KERNELS_CUDA_LINEAR_KERNELS_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/linear_cut.h"
#include "kernels/cuda/packing.cuh"
#include "kernels/cuda/packing.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/token_tiles.h"
#include "kernels/cuda/warp.cuh"

namespace mambad::kernels::cuda {

inline constexpr int kGroupTokens = 8;  // tokens of a right operand

// A product; all pointers are device memory.
struct Product {
  const int32_t* row_count = nullptr;  // rows that there are; nullptr: `rows`
  int rows = 0;                        // at most
  int outputs = 0, columns = 0;        // of the matrix
  const void* weights = nullptr;       // packed
  const float* x = nullptr;
  int64_t x_stride = 0;
  bool pairs_aligned = false;          // two columns of x and norm_weight may be read at once
  bool normed = false;                 // sums are scaled
  const float* norm_weight = nullptr;  // nullptr: times 1
  float epsilon = 0;
  // What PrepareTokens wrote. bfloat16: right operands, [groups of 8 tokens][steps][32 lanes];
  // float32: rows of whole quads, which may be x itself.
  const uint2* operands = nullptr;
  const float* numbers = nullptr;
  int64_t numbers_stride = 0;
  const float* scales = nullptr;  // [rows], where normed
  // What PrepareTiles wrote.
  const uint4* token_tiles = nullptr;  // TokenTiles
  const float* squares = nullptr;      // [rows][kEighths], where normed: sums of x^2
  float* y = nullptr;
  int64_t y_stride = 0;
  bool add = false;
  const float* bias = nullptr;  // [outputs] or nullptr

  __device__ int RowsThatThereAre() const {
    return row_count == nullptr ? rows : min(*row_count, rows);
  }
  // What is added to.
  __device__ float Before(int token, int output) const {
    return add ? y[token * y_stride + output] : 0.0f;
  }
  // `sum` is the finished sum of W u; `scale` is looked at where normed, `before` where added to.
  __device__ void Put(int token, int output, float sum, float scale, float before) const {
    if (normed) sum *= scale;
    if (add) sum = before + sum;
    if (bias != nullptr) sum += bias[output];
    y[token * y_stride + output] = sum;
  }
  __device__ void Put(int token, int output, float sum, float scale) const {
    Put(token, output, sum, scale, Before(token, output));
  }
};

// What a lane brings to a right operand: columns 16 step + 2 t, + 1 and 16 step + 2 t + 8, + 9 of
// its token's row, t = lane % 4.
struct TokenPairs {
  float2 low, high;
};

__device__ __forceinline__ float2 LoadPair(const float* from, int column, int columns,
                                           bool aligned) {
  if (aligned && column + 1 < columns) {
    return __ldg(reinterpret_cast<const float2*>(from + column));
  }
  return {column < columns ? __ldg(from + column) : 0.0f,
          column + 1 < columns ? __ldg(from + column + 1) : 0.0f};
}

__device__ __forceinline__ TokenPairs LoadPairs(const float* from, int step, int columns,
                                                bool aligned) {
  const int column = step * kTileColumns + static_cast<int>(threadIdx.x) % 4 * 2;
  return {LoadPair(from, column, columns, aligned), LoadPair(from, column + 8, columns, aligned)};
}

__device__ __forceinline__ TokenPairs Times(const TokenPairs& a, const TokenPairs& b) {
  return {{a.low.x * b.low.x, a.low.y * b.low.y}, {a.high.x * b.high.x, a.high.y * b.high.y}};
}

__device__ __forceinline__ uint2 RoundedOperand(const TokenPairs& u) {
  return {RoundPair(u.low.x, u.low.y), RoundPair(u.high.x, u.high.y)};
}

// The sum of a row's squares, in one order: a lane's four columns of a step in a chain from zero;
// its steps of an eighth one by one; the four lanes of a token pairwise; the eighths as FinishScale
// adds them. A step is what one block of a pass in one launch may know of a row.
__device__ __forceinline__ float SquaresOfStep(float a, float b, float c, float d) {
  return fmaf(d, d, fmaf(c, c, fmaf(b, b, a * a)));
}
__device__ __forceinline__ float AddSquares(const TokenPairs& x, float sum) {
  return sum + SquaresOfStep(x.low.x, x.low.y, x.high.x, x.high.y);
}
// All four lanes of a token get it.
__device__ __forceinline__ float AddLanesOfToken(float sum) {
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
}
// Of all squares of a row of `columns` numbers.
__device__ __forceinline__ float ScaleOfSquares(float sum, int columns, float epsilon) {
  return 1.0f / sqrtf(sum / static_cast<float>(columns) + epsilon);
}
// squares: a token's, of an eighth every `stride` numbers.
__device__ __forceinline__ float FinishScale(const float* squares, int stride, int columns,
                                             float epsilon) {
  float sum = 0;
  for (int eighth = 0; eighth < kEighths; ++eighth) sum += squares[eighth * stride];
  return ScaleOfSquares(sum, columns, epsilon);
}
// squares [kEighths][kGroupTokens], of token `token` of the group.
__device__ __forceinline__ float FinishScale(const float (*squares)[kGroupTokens], int token,
                                             int columns, float epsilon) {
  return FinishScale(&squares[0][token], kGroupTokens, columns, epsilon);
}

// The launches, each for products of its kind; nothing is allocated or waited for.

// So few columns, and no norm, that LaunchFewRows takes more than 8 rows from x.
bool HasFewColumns(const Product& product);
// bfloat16, any number of rows, best below some 64: the weights once for each 64 rows. `prepared`:
// operands and scales are there; else rows are taken from x (pairs_aligned), at most 8 of them or,
// where HasFewColumns, any number.
void LaunchFewRows(cudaStream_t stream, const Product& product, bool prepared, int multiprocessors);
// bfloat16, many rows, prepared; up to 15 groups of operands beyond the rows are read.
void LaunchTiles(cudaStream_t stream, const Product& product, int multiprocessors);
// What the current device must be told before LaunchTiles.
void AllowTiles();
// bfloat16, whole kCutSteps of columns, where AllowWarpgroups said so. PrepareWarpgroups writes
// rows of x into tiles and their squares into `squares` (LinearScratch); LaunchWarpgroups
// multiplies them, cut as `cut` says.
void PrepareWarpgroups(cudaStream_t stream, Product& product, const TokenTiles& tiles,
                       float* squares);
void LaunchWarpgroups(cudaStream_t stream, const Product& product, const Cut& cut,
                      int multiprocessors);
// Finds out what the current device and its code have of warpgroups; tells the device what it must
// know before LaunchWarpgroups.
void AllowWarpgroups(ProductUnits& units);
// float32, prepared.
void LaunchFloatRows(cudaStream_t stream, const Product& product);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_LINEAR_KERNELS_CUH_
