// How a CUDA call that fails ends the process.

#ifndef MAMBAD_KERNELS_CUDA_ERRORS_H_
#define MAMBAD_KERNELS_CUDA_ERRORS_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string_view>

namespace mambad::kernels::cuda {

// A broken contract of an operation: names it with the numbers at hand and ends the process.
[[noreturn]] void Fail(const char* operation, std::initializer_list<int64_t> numbers);

// What this thread does when the device is lost, BackendOptions::lost: as long as `hook` lives and
// until it is set again. nullptr: nothing but dying with the words.
void SetLostHook(const std::function<void(std::string_view words)>* hook);

// Returns where `error` is cudaSuccess. Where the device is lost (an error that every later call
// would give too), tells the hook; any other is a bug. Ends the process either way, with `what`
// and CUDA's words.
void Check(cudaError_t error, const char* what);

// After a launch: whether it could be launched.
inline void CheckLaunch(const char* what) { Check(cudaGetLastError(), what); }

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_ERRORS_H_
