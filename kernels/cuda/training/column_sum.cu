#include "kernels/cuda/training/column_sum.h"
#include "kernels/cuda/training/element_access.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kColumns = 32, kLines = 32;

__global__ void __launch_bounds__(kColumns* kLines)
    SumColumnsKernel(const float* __restrict__ partials, int64_t rows, int64_t columns,
                     int64_t stride, float* __restrict__ sums) {
  __shared__ float lines[kLines][kColumns];
  const int64_t column = blockIdx.x * int64_t{kColumns} + threadIdx.x;
  float sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t row = threadIdx.y; row < rows; row += kLines) {
      sum += partials[row * stride + column];
    }
  }
  lines[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int line = 1; line < kLines; ++line) sum += lines[line][threadIdx.x];
  sums[column] = sum;
}

}  // namespace

const char* SumColumns(const float* partials, int64_t rows, int64_t columns, int64_t stride,
                       float* sums, CUstream_st* stream) {
  const auto blocks = static_cast<unsigned>((columns + kColumns - 1) / kColumns);
  SumColumnsKernel<<<blocks, dim3(kColumns, kLines), 0, stream>>>(partials, rows, columns, stride,
                                                                  sums);
  return LaunchError();
}

}  // namespace mambad::kernels::cuda
