// What the tests against the original kernels' outputs share: the data, and layers whose products
// only pass on what the originals were given.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_GOLDEN_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_GOLDEN_H_

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/reference.h"
#include "tests/kernels/backend/step_rows.h"
#include "tests/kernels/backend/tested_backend.h"
#include "tests/support/golden_values.h"

namespace mambad::kernels {

using testing::Json;

inline Row Tensor(const Json& parent, const char* name) {
  return testing::GoldenTensor<float>(parent, name);
}

inline double RelativeError(const Row& ours, const Row& theirs) {
  EXPECT_EQ(ours.size(), theirs.size());
  return RelativeError(Rows{ours}, {Numbers(theirs.begin(), theirs.end())});
}

// On a backend, where the file `name` is there.
class GoldenTest : public OnBackend<> {
 protected:
  void Prepare() override { Load("mamba_ssm_cuda_reference_cases.json"); }
  void Load(const std::string& name) {
    cases_ = testing::LoadGolden(name);
    if (cases_.is_null()) {
      GTEST_SKIP() << "no reference values: MAMBAD_SHARED_DATA names no folder with golden/"
                   << name;
    }
  }
  Json cases_;
};

// ---- layers that pass numbers on ----------------------------------------------------------------

inline constexpr float kOpenGate = 1.27846454f;  // SiLU of this is 1: for cases without a gate
inline constexpr float kShrunk = 1.0f / 32;  // numbers times this are small enough for SiLU to give
inline constexpr int kTaps = 4;

// What SiLU makes `y` of, |y| < 0.2.
inline float BeforeSiLU(double y) {
  double x = 2 * y;
  for (int i = 0; i < 50; ++i) {
    const double sigmoid = 1 / (1 + std::exp(-x));
    x -= (x * sigmoid - y) / (sigmoid * (1 + x * (1 - sigmoid)));
  }
  return static_cast<float>(x);
}

// [rows, columns] with `count` ones from `row` on, in columns 0, 1, ...
inline Row Diagonal(int64_t rows, int64_t columns, int64_t row, int64_t count) {
  Row matrix(rows * columns, 0);
  for (int64_t i = 0; i < count; ++i) matrix[(row + i) * columns + i] = 1;
  return matrix;
}

// Rows of the residual stream that RMSNorm makes the given `numbers` of: beside them stand one that
// brings the mean square to 1, and `outputs` zeroes for a mixer to add to.
class CarriedRows {
 public:
  CarriedRows(Backend& backend, const Rows& numbers, int outputs)
      : backend_(backend),
        numbers_(static_cast<int>(numbers[0].size())),
        outputs_(outputs),
        rows_(static_cast<int>(numbers.size())),
        scale_(backend, Row(width(), kScale)),
        embedding_(backend, rows_, width(), ElementType::kFloat32, Embedded(numbers)) {}

  int64_t width() const { return numbers_ + 1 + outputs_; }
  NormWeights norm() const { return {scale_.data(), 0}; }

  // What `mix` adds to the outputs of each row, all rows of one sequence in slot 0.
  template <typename Mix>
  Rows Run(int64_t widest, const Mix& mix) const {
    WorkspaceShape shape = SmallWorkspace(rows_, width(), rows_);
    shape.max_projection = shape.max_inner = shape.max_selection = widest;
    const auto workspace = backend_.CreateWorkspace(shape);
    std::vector<int32_t> ids;
    for (int t = 0; t < rows_; ++t) ids.push_back(t);
    StepRows step;
    step.Add(0, 0, ids);
    BatchArrays arrays(backend_);
    const Batch batch = arrays.Write(step);
    RunRound(backend_, [&] {
      backend_.Embed(batch, embedding_.packed, *workspace);
      mix(batch, *workspace);
    });
    Rows result;
    for (const Row& row : ReadRows(backend_, workspace->residual, rows_)) {
      result.emplace_back(row.end() - outputs_, row.end());
    }
    return result;
  }

 private:
  static constexpr float kScale = 64;

  Row Embedded(const Rows& rows) const {
    Row embedded;
    for (const Row& row : rows) {
      double rest = static_cast<double>(width());
      for (const float number : row) {
        embedded.push_back(number / kScale);
        rest -= double{embedded.back()} * embedded.back();
      }
      embedded.push_back(static_cast<float>(std::sqrt(rest)));
      embedded.insert(embedded.end(), outputs_, 0.0f);
    }
    return embedded;
  }

  Backend& backend_;
  int numbers_, outputs_, rows_;
  DeviceArray<float> scale_;
  TestMatrix embedding_;
};

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_GOLDEN_H_
