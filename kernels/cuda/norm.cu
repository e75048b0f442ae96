#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kWarp = 32, kWarps = 8;

struct Parts {
  float* data[3];
  int64_t stride[3];
  int columns[3];
};

// A warp a row; block (i, j): rows kWarps i .. of part j.
__global__ void __launch_bounds__(kWarps* kWarp)
    NormRows(const int32_t* row_count, int rows, float epsilon,
             const __grid_constant__ Parts parts) {
  FollowEarlierKernels();
  const int there = row_count == nullptr ? rows : min(*row_count, rows);
  const int row = blockIdx.x * kWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (row >= there) return;
  const int columns = parts.columns[blockIdx.y];
  float* x = parts.data[blockIdx.y] + row * parts.stride[blockIdx.y];
  float sum = 0;
  for (int i = lane; i < columns; i += kWarp) sum = fmaf(x[i], x[i], sum);
  for (int apart = kWarp / 2; apart > 0; apart /= 2) {  // every lane ends with the same sum
    sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  }
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(columns) + epsilon);
  for (int i = lane; i < columns; i += kWarp) x[i] *= scale;
}

}  // namespace

void NormSelection(cudaStream_t stream, const int32_t* row_count, float epsilon,
                   const std::array<RowsView, 3>& views) {
  const int64_t rows = views[0].rows;
  Parts parts;
  for (int i = 0; i < 3; ++i) {
    if (views[i].rows != rows) Fail("NormSelection", {i, views[i].rows, rows});
    parts.data[i] = views[i].data;
    parts.stride[i] = views[i].stride;
    parts.columns[i] = static_cast<int>(views[i].columns);
  }
  LaunchEarly("NormSelection", stream, dim3((rows + kWarps - 1) / kWarps, 3), dim3(kWarps * kWarp),
              0, NormRows, row_count, static_cast<int>(rows), epsilon, parts);
}

}  // namespace mambad::kernels::cuda
