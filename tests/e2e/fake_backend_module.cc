// A module that serves on the CPU and calls itself a device of its own; what else there is to a
// module, and goes wrong with it, by definition:
//
//   FAKE_CONTRACT   says this contract instead of the build's
//   FAKE_NO_ENTRY   has no MambadCreateBackend
//   FAKE_NO_DEVICE  finds no device
//
// MAMBAD_FAKE_LOST names a file: when it appears, the device is lost at its next pass.
// MAMBAD_FAKE_MEMORY is how many bytes the device has of its own, all of them free.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "kernels/backend_module.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/broken_backend.h"

namespace mambad::testing {
namespace {

class FakeDevice : public BrokenBackend {
 public:
  explicit FakeDevice(const kernels::BackendOptions& options)
      : BrokenBackend(kernels::CreateCpuBackend({options.threads, options.activations}),
                      Fault::kNone),
        index_(options.index),
        lost_(options.lost) {}

  std::string Description() const override { return "fake device " + std::to_string(index_); }
  kernels::DeviceMemory Memory() const override {
    const char* const bytes = std::getenv("MAMBAD_FAKE_MEMORY");
    if (bytes == nullptr) return BrokenBackend::Memory();
    const int64_t all = std::atoll(bytes);
    return {all, all, /*dedicated=*/true};
  }
  void Embed(const kernels::Batch& batch, const kernels::WeightMatrix& embedding,
             kernels::Workspace& workspace) override {
    const char* const file = std::getenv("MAMBAD_FAKE_LOST");
    if (file != nullptr && access(file, F_OK) == 0) Lose();
    BrokenBackend::Embed(batch, embedding, workspace);
  }

 private:
  [[noreturn]] void Lose() {
    constexpr char kWords[] = "fake device: fell off the bus";
    if (lost_) lost_(kWords);
    std::fprintf(stderr, "mambad kernels: %s\n", kWords);
    std::abort();
  }

  const int index_;
  const std::function<void(std::string_view)> lost_;
};

}  // namespace
}  // namespace mambad::testing

const char* MambadBackendContract() {
#ifdef FAKE_CONTRACT
  return FAKE_CONTRACT;
#else
  return MAMBAD_BACKEND_CONTRACT;
#endif
}

#ifndef FAKE_NO_ENTRY
mambad::kernels::Backend* MambadCreateBackend(const mambad::kernels::BackendOptions& options,
                                              std::string* error) {
#ifdef FAKE_NO_DEVICE
  static_cast<void>(options);
  *error = "no fake device: the machine has none";
  return nullptr;
#else
  static_cast<void>(error);
  return new mambad::testing::FakeDevice(options);
#endif
}
#endif
