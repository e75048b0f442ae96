// The backends that the tests of this folder hold to kernels/backend.h. MAMBAD_TEST_BACKEND names
// the device as BackendOptions does; without it, "cpu". One that is not there is skipped, with the
// reason; the CPU always is.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_TESTED_BACKEND_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_TESTED_BACKEND_H_

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/backend_factory.h"

namespace mambad::kernels {

// The device, as it computes by itself.
std::vector<std::string> TestedDevices();
// Every way in which the device can compute: the CPU once for each instruction set of this machine,
// "cpu_AVX2", and once more through the backend that records and checks, "cpu_Recorded".
std::vector<std::string> TestedVariants();

// A device that computes in one way. One at a time: an instruction set is the process's.
class TestedBackend {
 public:
  explicit TestedBackend(const std::string& variant,
                         ElementType activations = ElementType::kFloat32);
  ~TestedBackend();
  TestedBackend(const TestedBackend&) = delete;
  TestedBackend& operator=(const TestedBackend&) = delete;

  // Empty, or why there is none.
  const std::string& missing() const { return missing_; }
  bool is_cpu() const { return device_ == "cpu"; }

  // With so many threads: on the CPU a backend of its own, elsewhere always the same one.
  Backend& WithThreads(int threads);
  Backend& operator*() { return WithThreads(2); }
  Backend* operator->() { return &WithThreads(2); }

 private:
  CreatedBackend Create(int threads) const;

  std::string device_, missing_;
  bool recorded_;
  ElementType activations_;
  std::map<int, std::unique_ptr<Backend>> backends_;  // by threads; 0: any number
};

inline const std::string& VariantOf(const std::string& parameter) { return parameter; }
template <typename... Others>
const std::string& VariantOf(const std::tuple<std::string, Others...>& parameter) {
  return std::get<0>(parameter);
}

// A test with a backend; the parameter is its variant, or a tuple that begins with it. Fixtures
// that prepare something do it in Prepare(), where there is a backend.
template <typename Parameter = std::string>
class OnBackend : public ::testing::TestWithParam<Parameter> {
 protected:
  virtual ElementType Activations() const { return ElementType::kFloat32; }
  virtual void Prepare() {}

  void SetUp() final {
    tested_ = std::make_unique<TestedBackend>(VariantOf(this->GetParam()), Activations());
    if (!tested_->missing().empty()) {
      if (tested_->is_cpu()) FAIL() << tested_->missing();
      GTEST_SKIP() << tested_->missing();
    }
    Prepare();
  }

  Backend& backend() { return **tested_; }
  TestedBackend& tested() { return *tested_; }

 private:
  std::unique_ptr<TestedBackend> tested_;
};

// Names of tests: the variant, and of a tuple's second part `name`.
inline std::string NameOfVariant(const ::testing::TestParamInfo<std::string>& info) {
  return info.param;
}
template <typename Shape>
std::string NameOfShape(const ::testing::TestParamInfo<std::tuple<std::string, Shape>>& info) {
  return std::get<0>(info.param) + "_" + std::get<1>(info.param).name;
}

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_TESTED_BACKEND_H_
