// Backends by name. The CPU's is in the program; every other is a module, a library that is loaded
// when its device is asked for (kernels/backend_module.h), so that the program starts on machines
// without that device and its drivers.

#ifndef MAMBAD_KERNELS_BACKEND_FACTORY_H_
#define MAMBAD_KERNELS_BACKEND_FACTORY_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/backend.h"
#include "kernels/tensor.h"

namespace mambad::kernels {

struct BackendOptions {
  // "cpu"; "cuda": libmambad_cuda.so on the first GPU that this process sees; "cuda:N": on GPU N, 0
  // the first; "auto": cuda where its module and a device are, else cpu.
  std::string device = "auto";
  int index = 0;    // N of "cuda:N": CreateBackend reads it off the name, for the module
  int threads = 0;  // the CPU's; 0: one a core this process may use
  // kBFloat16: rounded before products with bf16 weights, where the device multiplies pairs of
  // them.
  ElementType activations = ElementType::kFloat32;
  // The device is lost, in words: what was asked of it will never be done. Called once, by the
  // backend on the thread that drives it; ends the process. Empty, or should it return: the backend
  // dies with the words.
  std::function<void(std::string_view words)> lost;
};

// A backend, or why there is none. Texts are one line each.
struct CreatedBackend {
  std::unique_ptr<Backend> backend;
  std::string device;  // as it was named; "cpu" or "cuda", which "auto" became
  std::string error;   // without a backend: what is missing, where it was looked for, what to do
  std::string note;    // with "auto": why a device whose module is here is not used; mostly empty
};

// Whether BackendOptions::device may be that; not whether there is such a device.
bool IsDeviceName(std::string_view name);

// Modules are looked for beside the program, in ../lib/mambad from there (an installation), else
// where the system looks for libraries. A module stays loaded. One thread at a time.
CreatedBackend CreateBackend(const BackendOptions& options);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_BACKEND_FACTORY_H_
