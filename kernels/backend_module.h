// The door of a backend that is loaded at run time. libmambad_NAME.so exports both functions.

#ifndef MAMBAD_KERNELS_BACKEND_MODULE_H_
#define MAMBAD_KERNELS_BACKEND_MODULE_H_

#include <string>

#include "kernels/backend.h"
#include "kernels/backend_factory.h"

#define MAMBAD_MODULE_DOOR extern "C" __attribute__((visibility("default")))

// MAMBAD_BACKEND_CONTRACT of the module's build: a digest of the headers that program and module
// share. Asked first; a module of another contract is not called again.
MAMBAD_MODULE_DOOR const char* MambadBackendContract();

// The caller owns the result; null with `error` set, in one line, when there is no device that the
// module can use. Throws nothing.
MAMBAD_MODULE_DOOR mambad::kernels::Backend* MambadCreateBackend(
    const mambad::kernels::BackendOptions& options, std::string* error);

#endif  // MAMBAD_KERNELS_BACKEND_MODULE_H_
