// The door of libmambad_cuda.so.

#include <exception>
#include <memory>
#include <new>
#include <string>

#include "kernels/backend_module.h"
#include "kernels/cuda/cuda_backend.h"

const char* MambadBackendContract() { return MAMBAD_BACKEND_CONTRACT; }

mambad::kernels::Backend* MambadCreateBackend(const mambad::kernels::BackendOptions& options,
                                              std::string* error) {
  try {
    return mambad::kernels::cuda::CreateCudaBackend({options.index, options.lost}, error).release();
  } catch (const std::bad_alloc&) {
    *error = "too little memory is free to use " + options.device;
  } catch (const std::exception& failure) {
    *error = failure.what();
  }
  return nullptr;
}
