#include "kernels/cuda/errors.h"
#include "kernels/cuda/gate.h"
#include "kernels/cuda/launch.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// Block (i, j): numbers kThreads i .. of row j.
__global__ void __launch_bounds__(kThreads)
    Gate(const int32_t* row_count, const float* gate_and_up, int64_t stride, int width, float* out,
         int64_t out_stride) {
  const int row = blockIdx.y, i = blockIdx.x * kThreads + threadIdx.x;
  if ((row_count != nullptr && row >= *row_count) || i >= width) return;
  const float gate = gate_and_up[row * stride + i], up = gate_and_up[row * stride + width + i];
  out[row * out_stride + i] = gate / (1.0f + expf(-gate)) * up;
}

}  // namespace

void SiluGate(cudaStream_t stream, const int32_t* row_count, const RowsView& gate_and_up,
              const RowsView& out) {
  if (gate_and_up.columns != 2 * out.columns || gate_and_up.rows < out.rows || out.rows > 65535) {
    Fail("SiluGate", {gate_and_up.rows, gate_and_up.columns, out.rows, out.columns});
  }
  Launch("SiluGate", stream, dim3((out.columns + kThreads - 1) / kThreads, out.rows),
         dim3(kThreads), 0, Gate, row_count, gate_and_up.data, gate_and_up.stride,
         static_cast<int>(out.columns), out.data, out.stride);
}

}  // namespace mambad::kernels::cuda
