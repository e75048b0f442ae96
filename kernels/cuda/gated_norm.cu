#include <algorithm>

#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mamba2_scan.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/recurrence.cuh"
#include "kernels/cuda/token_tiles.cuh"

namespace mambad::kernels::cuda {
namespace {

// x, B and dt of a kept row go to its replay row, which by now all heads have read: row kept + i of
// the sequence.
template <int kThreads>
__device__ void KeepRow(const Mamba2Arguments& arguments, int sequence, int i) {
  const SequenceRows rows = RowsOfSequence(arguments.batch, arguments.state, sequence);
  i += rows.kept;
  if (i >= rows.total()) return;
  const int64_t row = rows.call_row(i);
  const int shared = static_cast<int>(arguments.widths.x + arguments.widths.b);
  const float* const convolved = RowOf(arguments.convolved, row);
  const float* const dt = RowOf(arguments.projected, row) + arguments.widths.dt_column;
  float* const to = KeptRow(rows, arguments.state.layout, i);
  for (int k = threadIdx.x; k < shared + arguments.layer.heads; k += kThreads) {
    to[k] = k < shared ? convolved[k] : dt[k - shared];
  }
}

// Block (row, group), and behind the rows a block for each of `kept` rows that a sequence may keep.
// Each thread sums its own squares, lowest first, then a warp's lanes pairwise, then warps in their
// order. Up to kHeld of its numbers a thread asks for at once and holds; where there are more it
// reads all again.
template <int kThreads, int kHeld>
__global__ void __launch_bounds__(kThreads)
    FinishRows(const __grid_constant__ Mamba2Arguments arguments,
               const __grid_constant__ TokenTiles tiles, int width, int kept) {
  FollowEarlierKernels();
  __shared__ float sums[kThreads / kWarp];
  const Batch& batch = arguments.batch;
  const int row = blockIdx.x;
  if (row >= batch.rows) {
    const int place = row - batch.rows;
    if (blockIdx.y == 0) KeepRow<kThreads>(arguments, place / kept, place % kept);
    return;
  }
  if (row >= batch.row_begin[batch.sequences]) return;
  const NormWeights& norm = arguments.layer.gated_norm;
  const int begin = blockIdx.y * width;
  float* const x = RowOf(arguments.out, row) + begin;
  const float* const weight = norm.weight == nullptr ? nullptr : norm.weight + begin;
  float held[kHeld], held_weight[kHeld], sum = 0;
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int i = threadIdx.x + k * kThreads;
    held[k] = i < width ? x[i] : 0.0f;
    held_weight[k] = weight != nullptr && i < width ? weight[i] : 1.0f;
  }
#pragma unroll
  for (int k = 0; k < kHeld; ++k) sum = fmaf(held[k], held[k], sum);
  for (int i = threadIdx.x + kHeld * kThreads; i < width; i += kThreads) {
    sum = fmaf(x[i], x[i], sum);
  }
  sum = WarpSum(sum);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
  __syncthreads();
  sum = 0;
#pragma unroll
  for (int i = 0; i < kThreads / kWarp; ++i) sum += sums[i];
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(width) + norm.epsilon);
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int i = threadIdx.x + k * kThreads;
    if (i < width) {
      PutNumber(arguments.out, tiles, row, begin + i, held[k] * scale * held_weight[k]);
    }
  }
  for (int i = threadIdx.x + kHeld * kThreads; i < width; i += kThreads) {
    PutNumber(arguments.out, tiles, row, begin + i,
              x[i] * scale * (weight != nullptr ? weight[i] : 1.0f));
  }
}

}  // namespace

void Mamba2Finish(cudaStream_t stream, const Batch& batch, const Mamba2Layer& layer,
                  const RecurrentState& state, const RowsView& projected, const RowsView& convolved,
                  const RowsView& gated, const TokenTiles& tiles) {
  if (batch.rows == 0) return;
  const Mamba2Arguments arguments{
      batch, layer, state, projected, convolved, gated, Mamba2Widths(layer)};
  const int width = layer.inner_width / layer.groups;
  const int kept = std::min(batch.rows, state.layout.replay_rows);
  const dim3 grid(batch.rows + kept * batch.sequences, layer.groups);
  const auto launch = [&](auto* kernel, int threads) {
    LaunchEarly("Mamba2Scan: norm", stream, grid, dim3(threads), 0, kernel, arguments, tiles, width,
                kept);
  };
  if (width <= 256) {
    launch(FinishRows<64, 4>, 64);
  } else if (width <= 2048) {
    launch(FinishRows<256, 8>, 256);
  } else {
    launch(FinishRows<256, 24>, 256);
  }
}

}  // namespace mambad::kernels::cuda
