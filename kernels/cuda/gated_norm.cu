#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/mamba2_scan.h"

namespace mambad::kernels::cuda {
namespace {

// A block for one group of one row. Each thread sums its own squares, lowest first, then a warp's
// lanes pairwise, then warps in their order.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    NormGroups(const __grid_constant__ Batch batch, const NormWeights norm, int64_t width,
               const __grid_constant__ RowsView rows) {
  __shared__ float sums[kThreads / kWarp];
  const int64_t row = blockIdx.x;
  if (row >= batch.row_begin[batch.sequences]) return;
  const int64_t begin = blockIdx.y * width;
  float* const x = RowOf(rows, row) + begin;
  float sum = 0;
  for (int64_t i = threadIdx.x; i < width; i += kThreads) sum = fmaf(x[i], x[i], sum);
  sum = WarpSum(sum);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
  __syncthreads();
  sum = 0;
#pragma unroll
  for (int i = 0; i < kThreads / kWarp; ++i) sum += sums[i];
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(width) + norm.epsilon);
  for (int64_t i = threadIdx.x; i < width; i += kThreads) {
    const float scaled = x[i] * scale;
    x[i] = norm.weight == nullptr ? scaled : scaled * norm.weight[begin + i];
  }
}

}  // namespace

void GatedNorm(cudaStream_t stream, const Batch& batch, const NormWeights& norm, int groups,
               const RowsView& rows) {
  if (batch.rows == 0) return;
  const int64_t width = rows.columns / groups;
  const dim3 grid(batch.rows, groups);
  if (width <= 256) {
    NormGroups<64><<<grid, 64, 0, stream>>>(batch, norm, width, rows);
  } else {
    NormGroups<256><<<grid, 256, 0, stream>>>(batch, norm, width, rows);
  }
  CheckLaunch("GatedNorm");
}

}  // namespace mambad::kernels::cuda
