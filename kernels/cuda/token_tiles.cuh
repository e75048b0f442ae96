// How rows are written into TokenTiles.

#ifndef MAMBAD_KERNELS_CUDA_TOKEN_TILES_CUH_
#define MAMBAD_KERNELS_CUDA_TOKEN_TILES_CUH_

#include <cstdint>

#include "kernels/cuda/packing.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/token_tiles.h"
#include "kernels/tensor.h"

namespace mambad::kernels::cuda {

inline constexpr int kStageSteps = 4;  // steps that are asked for and multiplied together
inline constexpr int kStageColumns = kStageSteps * kTileColumns;

// Of 16 bytes, eight columns: a token's step, a token's stage.
inline constexpr int kPieceColumns = 8;
inline constexpr int kStepPieces = 2, kTokenPieces = kStageSteps * kStepPieces;

// Where piece `piece` of a token's stage lies: so that eight tokens' meet all banks.
__host__ __device__ constexpr int SwizzledPiece(int token, int piece) {
  return token * kTokenPieces + (piece ^ token % 8);
}

// A row of tiles.
class TileRow {
 public:
  __device__ TileRow(const TokenTiles& tiles, int row)
      : token_(row % tiles.tokens),
        stage_(tiles.tokens * kStageColumns),
        data_(tiles.data + int64_t{row / tiles.tokens} * tiles.stages * stage_) {}

  __device__ void Put(int column, float value) const {
    *At(column) = static_cast<uint16_t>(RoundPair(value, 0));
  }
  // Columns column .. column + 3, column a multiple of four.
  __device__ void PutFour(int column, const float4& values) const {
    *reinterpret_cast<uint2*>(At(column)) = {RoundPair(values.x, values.y),
                                             RoundPair(values.z, values.w)};
  }

 private:
  __device__ uint16_t* At(int column) const {
    const int piece = column % kStageColumns / kPieceColumns;
    return data_ + int64_t{column / kStageColumns} * stage_ +
           SwizzledPiece(token_, piece) * kPieceColumns + column % kPieceColumns;
  }

  int token_, stage_;  // stage_: numbers of one
  uint16_t* data_;
};

// A number of a result that goes into tiles, where there are some, or else into rows.
__device__ inline void PutNumber(const RowsView& rows, const TokenTiles& tiles, int64_t row,
                                 int64_t column, float value) {
  if (tiles.data == nullptr) {
    rows.data[row * rows.stride + column] = value;
  } else {
    TileRow(tiles, static_cast<int>(row)).Put(static_cast<int>(column), value);
  }
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TOKEN_TILES_CUH_
