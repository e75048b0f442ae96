#ifndef MAMBAD_TESTS_TRAINER_EXPECT_ERROR_H_
#define MAMBAD_TESTS_TRAINER_EXPECT_ERROR_H_

#include <stdexcept>
#include <string>

namespace mambad::testing {

// The words of the std::runtime_error that `work` throws; "nothing was thrown" without one.
template <typename Work>
std::string ErrorOf(const Work& work) {
  try {
    work();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_TRAINER_EXPECT_ERROR_H_
