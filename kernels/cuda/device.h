// Which GPU: by number, and why it cannot be used.

#ifndef MAMBAD_KERNELS_CUDA_DEVICE_H_
#define MAMBAD_KERNELS_CUDA_DEVICE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/cuda/linear.h"

namespace mambad::kernels::cuda {

struct Device {
  int index = 0;  // CUDA's, among those that this process sees
  std::string name;
  int major = 0, minor = 0;    // compute capability
  int64_t bytes = 0;           // of memory, in use or not
  bool shares_memory = false;  // with the host
  ProductUnits products;

  // "NVIDIA H200, sm_90, 140 GiB"
  std::string Description() const;
};

// Device `index` of those that this process sees, 0 the first. Made current on this thread. Nothing
// with `error` set, in one line, where there is none such or it cannot be used.
std::optional<Device> OpenDevice(int index, std::string* error);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_DEVICE_H_
