// The backend on one NVIDIA GPU, compute capability 8.0 (sm_80) and later. Everything is done in
// order on one stream. Activations are float32; what enters a product with bf16 weights is rounded
// to bf16 first, always.

#ifndef MAMBAD_KERNELS_CUDA_CUDA_BACKEND_H_
#define MAMBAD_KERNELS_CUDA_CUDA_BACKEND_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/backend.h"

namespace mambad::kernels::cuda {

struct CudaBackendOptions {
  int index = 0;  // of the GPUs that this process sees, 0 the first
  std::function<void(std::string_view words)> lost;  // as BackendOptions::lost
};

// nullptr with `error` set, in one line, where there is no such device, or it cannot be used.
std::unique_ptr<Backend> CreateCudaBackend(const CudaBackendOptions& options, std::string* error);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_CUDA_BACKEND_H_
