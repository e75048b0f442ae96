// Names of devices, and what is said of those that are not there. (Modules of every kind, loaded by
// the daemon: tests/e2e/device_module_test.py.)

#include "kernels/backend_factory.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::kernels {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

BackendOptions On(const std::string& device) {
  BackendOptions options;
  options.device = device;
  options.threads = 1;
  return options;
}

TEST(BackendFactoryTest, DevicesHaveNames) {
  for (const char* name : {"auto", "cpu", "cuda", "cuda:0", "cuda:15"}) {
    EXPECT_TRUE(IsDeviceName(name)) << name;
  }
  for (const char* name : {"", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cuda:1234",
                           "CUDA", " cuda", "cuda0"}) {
    EXPECT_FALSE(IsDeviceName(name)) << name;
    const CreatedBackend created = CreateBackend(On(name));
    EXPECT_EQ(created.backend, nullptr);
    EXPECT_EQ(created.error,
              "\"" + std::string(name) + "\" found, auto or cpu or cuda or cuda:N expected");
  }
}

TEST(BackendFactoryTest, TheCpuIsAlwaysThere) {
  const CreatedBackend created = CreateBackend(On("cpu"));
  ASSERT_NE(created.backend, nullptr);
  EXPECT_EQ(created.device, "cpu");
  EXPECT_EQ(created.error + created.note, "");
  EXPECT_NE(CreateBackend(On("auto")).backend, nullptr);
}

TEST(BackendFactoryTest, ADeviceThatIsNotThereIsOneLine) {
  const CreatedBackend created = CreateBackend(On("cuda:123"));
  EXPECT_EQ(created.backend, nullptr);
  EXPECT_EQ(created.device, "cuda:123");
  EXPECT_FALSE(created.error.empty());
  EXPECT_THAT(created.error, Not(HasSubstr("\n")));
}

}  // namespace
}  // namespace mambad::kernels
