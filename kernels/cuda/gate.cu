#include "kernels/cuda/errors.h"
#include "kernels/cuda/gate.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/token_tiles.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ inline float Gated(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

// Block (i, j): numbers kThreads i .. of row j; kFours: four each.
template <bool kFours>
__global__ void __launch_bounds__(kThreads)
    Gate(const int32_t* row_count, const __grid_constant__ RowsView gate_and_up,
         const __grid_constant__ RowsView out, const __grid_constant__ TokenTiles tiles) {
  FollowEarlierKernels();
  const int row = blockIdx.y, i = (blockIdx.x * kThreads + threadIdx.x) * (kFours ? 4 : 1);
  const int64_t width = out.columns;
  if ((row_count != nullptr && row >= *row_count) || i >= width) return;
  const float* const from = gate_and_up.data + row * gate_and_up.stride + i;
  if constexpr (kFours) {
    const float4 gate = *reinterpret_cast<const float4*>(from);
    const float4 up = *reinterpret_cast<const float4*>(from + width);
    const float4 result = {Gated(gate.x, up.x), Gated(gate.y, up.y), Gated(gate.z, up.z),
                           Gated(gate.w, up.w)};
    if (tiles.data != nullptr) {
      TileRow(tiles, row).PutFour(i, result);
    } else {
      *reinterpret_cast<float4*>(out.data + row * out.stride + i) = result;
    }
  } else {
    PutNumber(out, tiles, row, i, Gated(from[0], from[width]));
  }
}

bool HasFours(const RowsView& view) {
  return view.columns % 4 == 0 && view.stride % 4 == 0 &&
         reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
}

}  // namespace

void SiluGate(cudaStream_t stream, const int32_t* row_count, const RowsView& gate_and_up,
              const RowsView& out, const TokenTiles& tiles) {
  if (gate_and_up.columns != 2 * out.columns || gate_and_up.rows < out.rows || out.rows > 65535) {
    Fail("SiluGate", {gate_and_up.rows, gate_and_up.columns, out.rows, out.columns});
  }
  const bool fours = HasFours(gate_and_up) && HasFours(out);
  const int64_t threads = out.columns / (fours ? 4 : 1);
  LaunchEarly("SiluGate", stream, dim3((threads + kThreads - 1) / kThreads, out.rows),
              dim3(kThreads), 0, fours ? Gate<true> : Gate<false>, row_count, gate_and_up, out,
              tiles);
}

}  // namespace mambad::kernels::cuda
