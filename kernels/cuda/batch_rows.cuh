// What mixers' device code shares: rows of views, which sequence a block works for, sums over the
// lanes of a warp.

#ifndef MAMBAD_KERNELS_CUDA_BATCH_ROWS_CUH_
#define MAMBAD_KERNELS_CUDA_BATCH_ROWS_CUH_

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/warp.cuh"

namespace mambad::kernels::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline float* RowOf(const RowsView& view, int64_t row) {
  return view.data + row * view.stride;
}

// The last of `sequences` sequences for which begin(s) <= item; begin(0) <= item, and begin never
// falls. Called by whole warps, whose lanes look at 32 places at once.
template <typename Begin>
__device__ inline int LastSequence(int sequences, int64_t item, const Begin& begin) {
  const int lane = threadIdx.x % kWarp;
  int first = 0, count = sequences;  // it is one of these
  while (count > 1) {
    const int step = (count + kWarp - 1) / kWarp;
    const int place = lane * step;
    const bool holds = place < count && begin(first + place) <= item;
    const int last = (__popc(__ballot_sync(kAllLanes, holds)) - 1) * step;
    first += last;
    count = min(step, count - last);
  }
  return first;
}

// Sequences cut into tiles of `tile_rows` rows, each row counting `times`. Sequence s owns items
// from row_begin[s] * times / tile_rows + s on: as many as it has tiles fit before those of s + 1,
// and nobody has to add up what is before. TileItems(R, S) of them reach for all.
struct SequenceTile {
  int sequence = 0;
  int64_t row_begin = 0;  // of the sequence, in the call
  int64_t rows = 0;       // of the sequence
  int64_t first = 0;  // of the tile, in rows * times; rows * times or more: there is no such tile
};

__device__ inline SequenceTile TileOfItem(const Batch& batch, int64_t item, int tile_rows,
                                          int times) {
  const auto begin = [&](int s) { return int64_t{batch.row_begin[s]} * times / tile_rows + s; };
  SequenceTile tile;
  tile.sequence = LastSequence(batch.sequences, item, begin);
  tile.row_begin = batch.row_begin[tile.sequence];
  tile.rows = batch.row_begin[tile.sequence + 1] - tile.row_begin;
  tile.first = (item - begin(tile.sequence)) * tile_rows;
  return tile;
}

inline int64_t TileItems(const Batch& batch, int tile_rows, int times) {
  return int64_t{batch.rows} * times / tile_rows + batch.sequences;
}

// The sequence of a row that there is.
__device__ inline int SequenceOfRow(const Batch& batch, int64_t row) {
  return LastSequence(batch.sequences, row, [&](int s) { return int64_t{batch.row_begin[s]}; });
}

// The same bits in every lane.
__device__ inline float WarpSum(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

__device__ inline float WarpMaximum(float value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
  }
  return value;
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_BATCH_ROWS_CUH_
