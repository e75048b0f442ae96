// The backend that is part of every program: this machine's processor.

#ifndef MAMBAD_KERNELS_CPU_CPU_BACKEND_H_
#define MAMBAD_KERNELS_CPU_CPU_BACKEND_H_

#include <memory>

#include "kernels/backend.h"

namespace mambad::kernels {

struct CpuBackendOptions {
  int threads = 0;  // 0: one a core this process may use
  // kBFloat16: rounded before products with bf16 weights, on machines that have dot products of
  // bf16 pairs.
  ElementType activations = ElementType::kFloat32;
};
std::unique_ptr<Backend> CreateCpuBackend(const CpuBackendOptions& options);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_CPU_BACKEND_H_
