// How weights lie in device memory, and in which order the columns of a product are summed. Both
// follow from the matrix alone.
//
// bfloat16: tiles of 16 rows and 16 columns, [panels][steps], 512 bytes each: what the 32 lanes of
// a warp hold of a left operand of MultiplyAdd (ptx.cuh), 16 bytes a lane. Read by a warp it is one
// contiguous piece, from device memory and from shared memory alike, and the same registers are the
// left operand of a warpgroup's product with four panels.
// float32: panels of 32 rows, [panels][quads][32 rows][4 columns].
// Rows and columns that a matrix lacks are zeros.
//
// ORDER. Steps (bfloat16: 16 columns; float32: 4) are cut into eight contiguous eighths. Each is
// one chain of multiply-adds, lowest column first, from zero; the eight sums are added to zero in
// their order.

#ifndef MAMBAD_KERNELS_CUDA_PACKING_CUH_
#define MAMBAD_KERNELS_CUDA_PACKING_CUH_

#include <cstdint>

#include "kernels/tensor.h"

namespace mambad::kernels::cuda {

inline constexpr int kEighths = 8;

inline constexpr int kTileRows = 16, kTileColumns = 16;  // bfloat16
inline constexpr int kTileBytes = 512;
inline constexpr int kFloatPanelRows = 32, kQuad = 4;  // float32

// Of a matrix of any size.
__host__ __device__ constexpr int64_t Panels(int64_t rows) {
  return (rows + kTileRows - 1) / kTileRows;
}
__host__ __device__ constexpr int64_t Steps(int64_t columns) {
  return (columns + kTileColumns - 1) / kTileColumns;
}
__host__ __device__ constexpr int64_t FloatPanels(int64_t rows) {
  return (rows + kFloatPanelRows - 1) / kFloatPanelRows;
}
__host__ __device__ constexpr int64_t Quads(int64_t columns) {
  return (columns + kQuad - 1) / kQuad;
}

// Eighth e is steps [EighthBegin(steps, e), EighthBegin(steps, e + 1)); it may be empty.
__host__ __device__ constexpr int EighthBegin(int steps, int eighth) {
  return static_cast<int>(static_cast<int64_t>(steps) * eighth / kEighths);
}

// Where a number lies, in elements.
__host__ __device__ constexpr int64_t TilePlace(int64_t steps, int64_t row, int64_t column) {
  const int64_t tile = row / kTileRows * steps + column / kTileColumns;
  const int64_t lane = row % 8 * 4 + column % 8 / 2;
  const int64_t part = row % kTileRows / 8 + column % kTileColumns / 8 * 2;  // of the lane's four
  return tile * (kTileRows * kTileColumns) + lane * 8 + part * 2 + column % 2;
}
__host__ __device__ constexpr int64_t FloatPlace(int64_t quads, int64_t row, int64_t column) {
  return ((row / kFloatPanelRows * quads + column / kQuad) * kFloatPanelRows +
          row % kFloatPanelRows) *
             kQuad +
         column % kQuad;
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PACKING_CUH_
