#include "kernels/cpu/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/cpu/instruction_set.h"

namespace mambad::kernels {
namespace {

TEST(NormTest, AgreesWithFloat64OnEveryInstructionSet) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (InstructionSet set : AvailableInstructionSets()) {
    LimitInstructionSet(set);
    for (int columns : {1, 3, 15, 16, 17, 63, 64, 65, 576, 1001}) {
      for (float scale : {1e-4f, 1.0f, 1e6f}) {
        std::vector<float> x(columns), weight(columns), y(columns);
        double mean = 0;
        for (int i = 0; i < columns; ++i) {
          x[i] = scale * normal(random);
          weight[i] = normal(random);
          mean += double{x[i]} * x[i] / columns;
        }
        RmsNormRow({weight.data(), 1e-5f}, x.data(), columns, y.data());
        for (int i = 0; i < columns; ++i) {
          const double expected = x[i] / std::sqrt(mean + double{1e-5f}) * weight[i];
          ASSERT_NEAR(y[i], expected, 1e-6 * std::abs(expected))
              << Name(set) << " columns " << columns;
        }
        RmsNormRow({weight.data(), 1e-5f}, x.data(), columns, x.data());  // in place
        ASSERT_EQ(x, y);
      }
    }
  }
  LimitInstructionSet(InstructionSet::kAvx512Bfloat16);
}

}  // namespace
}  // namespace mambad::kernels
