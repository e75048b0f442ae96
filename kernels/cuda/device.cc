#include "kernels/cuda/device.h"

#include <cuda_runtime.h>

#include "kernels/cuda/memory.h"

namespace mambad::kernels::cuda {
namespace {

constexpr int kLeastMajor = 8;  // bf16 products

std::string Version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

std::string WordsOf(cudaError_t error) {
  return std::string(cudaGetErrorString(error)) + " (" + cudaGetErrorName(error) + ")";
}

std::string WhyNoDevices(cudaError_t error) {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (error == cudaErrorInsufficientDriver && driver == 0) {
    return "this machine has no NVIDIA driver, or it is out of this process's reach (libcuda.so.1)";
  }
  if (error == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver is too old: it is one of CUDA " + Version(driver) +
           ", that of CUDA " + Version(CUDART_VERSION) + " or a later one is needed";
  }
  if (error == cudaErrorNoDevice) {
    return "this machine has an NVIDIA driver, but no CUDA device that this process may use";
  }
  return "CUDA does not start: " + WordsOf(error);
}

}  // namespace

std::string Device::Description() const {
  constexpr int64_t kGiB = int64_t{1} << 30;
  const std::string number = index > 0 ? " (cuda:" + std::to_string(index) + ")" : "";
  return name + number + ", sm_" + std::to_string(major) + std::to_string(minor) + ", " +
         std::to_string((bytes + kGiB / 2) / kGiB) + " GiB";
}

std::optional<Device> OpenDevice(int index, std::string* error) {
  // An error that an earlier call left behind would be taken for ours.
  cudaGetLastError();
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
    *error = WhyNoDevices(status);
    cudaGetLastError();
    return std::nullopt;
  }
  Device device;
  device.index = index;
  if (index < 0 || index >= count) {
    *error = "there is no cuda:" + std::to_string(index) + " here: this process sees " +
             std::to_string(count) +
             (count == 1 ? " device, cuda:0" : " devices, cuda:0 to cuda:") +
             (count == 1 ? "" : std::to_string(count - 1));
    return std::nullopt;
  }
  const std::string called = "cuda:" + std::to_string(device.index);
  cudaDeviceProp properties;
  cudaError_t status = cudaGetDeviceProperties(&properties, device.index);
  if (status == cudaSuccess) {
    device.name = properties.name;
    device.major = properties.major;
    device.minor = properties.minor;
    device.bytes = static_cast<int64_t>(properties.totalGlobalMem);
    device.shares_memory = properties.integrated != 0;
    if (device.major < kLeastMajor) {
      *error = called + ", " + device.Description() + ", is too old: sm_80 or later is needed";
      return std::nullopt;
    }
    status = cudaSetDevice(device.index);
  }
  if (status == cudaSuccess) status = cudaFree(nullptr);  // the context is made now, or it fails
  if (status != cudaSuccess) {
    cudaGetLastError();
    *error = called + ", " + device.Description() + ", cannot be used: " +
             (status == cudaErrorMemoryAllocation ? "too little of its memory is free"
                                                  : WordsOf(status));
    return std::nullopt;
  }
  if (!HasCodeForDevice()) {
    *error = called + ", " + device.Description() +
             ": libmambad_cuda.so was built without code for it (CMake: MAMBAD_CUDA_MODULE_"
             "ARCHITECTURES)";
    return std::nullopt;
  }
  device.products = OpenProductUnits();
  return device;
}

}  // namespace mambad::kernels::cuda
