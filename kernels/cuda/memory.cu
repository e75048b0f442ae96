#include <algorithm>
#include <cstring>
#include <new>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/memory.h"

namespace mambad::kernels::cuda {
namespace {

// cudaMalloc takes whole blocks; pieces up to half of one share blocks, each within one (seen on
// sm_90, CUDA 13.0).
constexpr int64_t kBlock = int64_t{2} << 20, kPieceUnit = 512;

constexpr int kFillThreads = 256;
constexpr size_t kFillBlocks = 1024;  // at most; each then fills several stretches

__global__ void __launch_bounds__(kFillThreads)
    FillKernel(float* __restrict__ data, float value, size_t count) {
  const size_t step = size_t{gridDim.x} * kFillThreads;
  for (size_t i = size_t{blockIdx.x} * kFillThreads + threadIdx.x; i < count; i += step) {
    data[i] = value;
  }
}

// Too little memory is an answer, not a fault: the error is taken back.
void CheckAllocation(cudaError_t error, const char* what) {
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw std::bad_alloc();
  }
  Check(error, what);
}

// What fails here failed before, and was told of where it did; or the process is ending.
void FreeDevice(void* data, size_t) { static_cast<void>(cudaFree(data)); }
void FreePinned(void* data, size_t) { static_cast<void>(cudaFreeHost(data)); }

}  // namespace

Buffer AllocateDevice(size_t bytes, cudaStream_t stream) {
  bytes = std::max<size_t>(bytes, 1);
  void* data = nullptr;
  CheckAllocation(cudaMalloc(&data, bytes), "cudaMalloc");
  Buffer buffer(data, bytes, FreeDevice);
  Check(cudaMemsetAsync(data, 0, bytes, stream), "cudaMemsetAsync");
  return buffer;
}

int64_t DeviceBytes(int64_t bytes) {
  const int64_t piece = (std::max<int64_t>(bytes, 1) + kPieceUnit - 1) / kPieceUnit * kPieceUnit;
  if (piece > kBlock / 2) return (piece + kBlock - 1) / kBlock * kBlock;
  const int64_t pieces = kBlock / piece;  // of a block
  return (kBlock + pieces - 1) / pieces;
}

Buffer AllocatePinned(size_t bytes) {
  bytes = std::max<size_t>(bytes, 1);
  void* data = nullptr;
  CheckAllocation(cudaHostAlloc(&data, bytes, cudaHostAllocDefault), "cudaHostAlloc");
  Buffer buffer(data, bytes, FreePinned);
  std::memset(data, 0, bytes);
  return buffer;
}

void Fill(cudaStream_t stream, float* data, float value, size_t count) {
  if (count == 0) return;
  const size_t blocks = std::min(kFillBlocks, (count + kFillThreads - 1) / kFillThreads);
  FillKernel<<<static_cast<unsigned>(blocks), kFillThreads, 0, stream>>>(data, value, count);
  CheckLaunch("Fill");
}

bool HasCodeForDevice() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, FillKernel);
  if (error != cudaErrorNoKernelImageForDevice && error != cudaErrorInvalidDeviceFunction) {
    return true;
  }
  cudaGetLastError();
  return false;
}

RowsView ScratchRows::View(const char* operation, int64_t rows, int64_t columns) const {
  if (rows > rows_ || columns > columns_) Fail(operation, {rows, rows_, columns, columns_});
  return {memory_.as<float>(), rows, columns, Stride(columns)};
}

}  // namespace mambad::kernels::cuda
