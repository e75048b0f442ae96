#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/mamba2_scan.h"

namespace mambad::kernels::cuda {
namespace {

// A block for one group of one row. Each thread sums its own squares, lowest first, then a warp's
// lanes pairwise, then warps in their order. Up to kHeld of its numbers a thread asks for at once
// and keeps; where there are more it reads all again.
template <int kThreads, int kHeld>
__global__ void __launch_bounds__(kThreads)
    NormGroups(const __grid_constant__ Batch batch, const NormWeights norm, int width,
               const __grid_constant__ RowsView rows) {
  __shared__ float sums[kThreads / kWarp];
  const int64_t row = blockIdx.x;
  if (row >= batch.row_begin[batch.sequences]) return;
  const int begin = blockIdx.y * width;
  float* const x = RowOf(rows, row) + begin;
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
    if (i < width) x[i] = held[k] * scale * held_weight[k];
  }
  for (int i = threadIdx.x + kHeld * kThreads; i < width; i += kThreads) {
    x[i] = x[i] * scale * (weight != nullptr ? weight[i] : 1.0f);
  }
}

}  // namespace

void GatedNorm(cudaStream_t stream, const Batch& batch, const NormWeights& norm, int groups,
               const RowsView& rows) {
  if (batch.rows == 0) return;
  const int width = static_cast<int>(rows.columns / groups);
  const dim3 grid(batch.rows, groups);
  if (width <= 256) {
    NormGroups<64, 4><<<grid, 64, 0, stream>>>(batch, norm, width, rows);
  } else if (width <= 2048) {
    NormGroups<256, 8><<<grid, 256, 0, stream>>>(batch, norm, width, rows);
  } else {
    NormGroups<256, 24><<<grid, 256, 0, stream>>>(batch, norm, width, rows);
  }
  CheckLaunch("GatedNorm");
}

}  // namespace mambad::kernels::cuda
