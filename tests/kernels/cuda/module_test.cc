// libmambad_cuda.so as the program finds it beside itself: of this build, and usable or, in one
// clear line, not. Runs on machines with and without a GPU; what the backend computes is held to
// kernels/backend.h by tests/kernels/backend (tests/gpu/run.sh).

#include <dlfcn.h>

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend_factory.h"
#include "kernels/backend_module.h"

namespace mambad::kernels {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

CreatedBackend CreateOn(const std::string& device) {
  BackendOptions options;
  options.device = device;
  options.threads = 1;
  return CreateBackend(options);
}

TEST(CudaModuleTest, IsOfThisBuildAndHasItsDoorAlone) {
  const auto folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  void* const module = dlopen((folder / "libmambad_cuda.so").c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(module, nullptr) << dlerror();
  auto* const contract =
      reinterpret_cast<decltype(MambadBackendContract)*>(dlsym(module, "MambadBackendContract"));
  ASSERT_NE(contract, nullptr);
  EXPECT_STREQ(contract(), MAMBAD_BACKEND_CONTRACT);
  EXPECT_NE(dlsym(module, "MambadCreateBackend"), nullptr);
  // The CUDA runtime in it is nobody else's.
  EXPECT_EQ(dlsym(module, "cudaMalloc"), nullptr);
}

TEST(CudaModuleTest, FindsADeviceOrSaysInOneLineWhyNot) {
  const CreatedBackend created = CreateOn("cuda");
  EXPECT_EQ(created.device, "cuda");
  if (created.backend != nullptr) {
    EXPECT_THAT(created.backend->Description(), HasSubstr(", sm_"));
    return;
  }
  EXPECT_THAT(created.error, AnyOf(HasSubstr("this machine has no NVIDIA driver"),
                                   HasSubstr("the NVIDIA driver is too old"),
                                   HasSubstr("no CUDA device that this process may use"),
                                   HasSubstr("CUDA does not start: "), HasSubstr("cuda:0, ")));
  EXPECT_THAT(created.error, Not(HasSubstr("\n")));

  const CreatedBackend instead = CreateOn("auto");
  ASSERT_NE(instead.backend, nullptr);
  EXPECT_EQ(instead.device, "cpu");
  EXPECT_EQ(instead.note, created.error);
}

TEST(CudaModuleTest, ANumberBeyondTheDevicesIsRefused) {
  const CreatedBackend created = CreateOn("cuda:123");
  EXPECT_EQ(created.backend, nullptr);
  EXPECT_THAT(created.error, Not(HasSubstr("\n")));
  if (CreateOn("cuda").backend != nullptr) {
    EXPECT_THAT(created.error, HasSubstr("there is no cuda:123 here: this process sees "));
  }
}

}  // namespace
}  // namespace mambad::kernels
