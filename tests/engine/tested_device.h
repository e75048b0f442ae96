// The device that tests of the engine open, where they leave the choice: the CPU, or what
// MAMBAD_TEST_BACKEND names, as in tests/kernels/backend. tests/gpu/run.sh sets it.

#ifndef MAMBAD_TESTS_ENGINE_TESTED_DEVICE_H_
#define MAMBAD_TESTS_ENGINE_TESTED_DEVICE_H_

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "kernels/backend_factory.h"
#include "kernels/cpu/cpu_backend.h"

namespace mambad::testing {

inline std::string TestedDevice() {
  const char* const device = std::getenv("MAMBAD_TEST_BACKEND");
  return device != nullptr ? device : "cpu";
}
inline bool OnCpu() { return TestedDevice() == "cpu"; }

// A backend on it; options that are not the CPU's alone count elsewhere too. Ends the process where
// there is none.
inline std::unique_ptr<kernels::Backend> OpenTestedDevice(
    const kernels::CpuBackendOptions& options) {
  kernels::BackendOptions wanted;
  wanted.device = TestedDevice();
  wanted.threads = options.threads;
  wanted.activations = options.activations;
  kernels::CreatedBackend created = kernels::CreateBackend(wanted);
  if (created.backend == nullptr) {
    std::fprintf(stderr, "MAMBAD_TEST_BACKEND: %s\n", created.error.c_str());
    std::exit(EXIT_FAILURE);
  }
  return std::move(created.backend);
}

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_ENGINE_TESTED_DEVICE_H_
