// One way to launch a kernel: all launches of a folder can be changed together.

#ifndef MAMBAD_KERNELS_CUDA_LAUNCH_CUH_
#define MAMBAD_KERNELS_CUDA_LAUNCH_CUH_

#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/cuda/errors.h"

namespace mambad::kernels::cuda {

// `shared`: bytes of dynamic shared memory. Launches nothing where the grid is empty.
template <typename... Parameters, typename... Arguments>
void Launch(const char* what, cudaStream_t stream, dim3 grid, dim3 block, size_t shared,
            void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  kernel<<<grid, block, shared, stream>>>(arguments...);
  CheckLaunch(what);
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_LAUNCH_CUH_
