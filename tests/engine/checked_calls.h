// Tests that open engines can be run on any device (tested_device.h), and with every call to it
// checked and every second decode round replayed (kernels/recording_backend.h): with
// MAMBAD_TEST_CHECKED_CALLS set, as ctest's NAME_checked does.

#ifndef MAMBAD_TESTS_ENGINE_CHECKED_CALLS_H_
#define MAMBAD_TESTS_ENGINE_CHECKED_CALLS_H_

#include <cstdlib>
#include <memory>
#include <utility>

#include "engine/options.h"
#include "kernels/recording_backend.h"
#include "tests/engine/tested_device.h"

namespace mambad::testing {

inline bool ChecksCalls() { return std::getenv("MAMBAD_TEST_CHECKED_CALLS") != nullptr; }

inline EngineOptions Checked(EngineOptions options) {
  options.check_calls = options.check_calls || ChecksCalls();
  if (options.device == "auto") options.device = TestedDevice();
  return options;
}

inline std::unique_ptr<kernels::Backend> Checked(std::unique_ptr<kernels::Backend> backend) {
  return ChecksCalls() ? kernels::CreateRecordingBackend(std::move(backend)) : std::move(backend);
}

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_ENGINE_CHECKED_CALLS_H_
