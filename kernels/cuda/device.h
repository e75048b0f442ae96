// Which GPU: by name, and why it cannot be used.

#ifndef MAMBAD_KERNELS_CUDA_DEVICE_H_
#define MAMBAD_KERNELS_CUDA_DEVICE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mambad::kernels::cuda {

struct Device {
  int index = 0;  // CUDA's, among those that this process sees
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int64_t bytes = 0;         // of memory, in use or not

  // "NVIDIA H200, sm_90, 140 GiB"
  std::string Description() const;
};

// "cuda" or "auto": device 0; "cuda:N": device N. Made current on this thread. Nothing with `error`
// set, in one line, where there is none such or it cannot be used.
std::optional<Device> OpenDevice(std::string_view name, std::string* error);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_DEVICE_H_
