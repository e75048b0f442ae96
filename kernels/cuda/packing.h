// Weights on their way to the device.

#ifndef MAMBAD_KERNELS_CUDA_PACKING_H_
#define MAMBAD_KERNELS_CUDA_PACKING_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "kernels/backend.h"
#include "kernels/buffer.h"
#include "kernels/tensor.h"

namespace mambad::kernels::cuda {

// Device memory, zeroed, aligned to 256 bytes; throws std::bad_alloc.
using Allocate = std::function<Buffer(size_t bytes)>;

// Bytes of device memory that such a matrix takes.
int64_t PackedBytes(int64_t rows, int64_t columns, ElementType type);

// Packs W [rows, columns], kFloat32 or kBFloat16, any size, as packing.cuh says. Brings it over
// piece by piece and returns when it is there; not for captured streams.
WeightMatrix PackMatrix(int64_t rows, int64_t columns, ElementType type, const MatrixSource& source,
                        const Allocate& allocate, cudaStream_t stream);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PACKING_H_
