// Memory of the device that is current on the calling thread, and of the host beside it.

#ifndef MAMBAD_KERNELS_CUDA_MEMORY_H_
#define MAMBAD_KERNELS_CUDA_MEMORY_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "kernels/buffer.h"
#include "kernels/tensor.h"

namespace mambad::kernels::cuda {

// Device memory, aligned to 256 bytes, zeroed in order with `stream`. Giving it back waits for all
// that the device was asked for. Throws std::bad_alloc when there is no more.
Buffer AllocateDevice(size_t bytes, cudaStream_t stream);

// What AllocateDevice takes of the device for so many bytes.
int64_t DeviceBytes(int64_t bytes);

// Page-locked memory of the host, which the device reads and writes by itself; zeroed. Throws
// std::bad_alloc.
Buffer AllocatePinned(size_t bytes);

// `count` numbers of device memory become `value`, any value that a float can have.
void Fill(cudaStream_t stream, float* data, float value, size_t count);

// Whether this module has code that the current device runs, by itself or made from PTX by the
// driver. An error of any other kind is left to whoever calls next.
bool HasCodeForDevice();

// A matrix of scratch whose operations each choose their own width, up to a limit.
class ScratchRows {
 public:
  // `allocate` gives device memory, aligned to 256 bytes.
  ScratchRows(int64_t rows, int64_t columns, const std::function<Buffer(size_t bytes)>& allocate)
      : rows_(rows), columns_(columns), memory_(allocate(rows * Stride(columns) * sizeof(float))) {}

  // The first rows and columns. More than there are is a bug of the caller.
  RowsView View(const char* operation, int64_t rows, int64_t columns) const;

 private:
  // Rows begin on cache lines of the device.
  static constexpr int64_t Stride(int64_t columns) { return (columns + 31) / 32 * 32; }

  int64_t rows_ = 0, columns_ = 0;
  Buffer memory_;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_MEMORY_H_
