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

// Whether the current device lets a kernel begin before the one in front of it has ended.
inline bool KernelsMayBeginEarly() {
  int device = 0, major = 0;
  Check(cudaGetDevice(&device), "cudaGetDevice");
  Check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "cudaDeviceGetAttribute");
  return major >= 9;
}

// Launches a kernel that then may begin before the one in front of it has ended: it calls
// WaitForEarlierKernels (ptx.cuh) before it reads what other kernels wrote, or writes anything.
template <typename... Parameters, typename... Arguments>
void LaunchEarly(const char* what, cudaStream_t stream, dim3 grid, dim3 block, size_t shared,
                 void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = KernelsMayBeginEarly() ? 1 : 0;
  Check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), what);
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_LAUNCH_CUH_
