#include "kernels/cuda/errors.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace mambad::kernels::cuda {
namespace {

thread_local const std::function<void(std::string_view)>* lost_hook = nullptr;

// Errors of one call alone: what it was given was wrong, or there was too little of something.
// After any other the context is gone, and all that was asked of it.
bool IsOfOneCall(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidDevicePointer:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorInvalidSymbol:
    case cudaErrorInvalidMemcpyDirection:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorMemoryAllocation:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorNotReady:
    case cudaErrorNotSupported:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureIsolation:
    case cudaErrorStreamCaptureUnjoined:
    case cudaErrorStreamCaptureUnmatched:
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureWrongThread:
      return true;
    default:
      return false;
  }
}

}  // namespace

void Fail(const char* operation, std::initializer_list<int64_t> numbers) {
  std::fprintf(stderr, "mambad kernels: %s:", operation);
  for (const int64_t number : numbers)
    std::fprintf(stderr, " %lld", static_cast<long long>(number));
  std::fprintf(stderr, "\n");
  std::abort();
}

void SetLostHook(const std::function<void(std::string_view)>* hook) { lost_hook = hook; }

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  const std::string words = std::string("CUDA: ") + what + ": " + cudaGetErrorString(error) + " (" +
                            cudaGetErrorName(error) + ")";
  if (!IsOfOneCall(error) && lost_hook != nullptr && *lost_hook) (*lost_hook)(words);
  std::fprintf(stderr, "mambad kernels: %s\n", words.c_str());
  std::abort();
}

}  // namespace mambad::kernels::cuda
