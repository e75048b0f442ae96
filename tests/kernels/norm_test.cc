#include "kernels/cpu/norm.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/cpu/instruction_set.h"

namespace mambad::kernels {
namespace {

TEST(NormTest, ARowMayBecomeItsOwnNorm) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (InstructionSet set : AvailableInstructionSets()) {
    LimitInstructionSet(set);
    for (int columns : {1, 3, 15, 16, 17, 63, 64, 65, 576, 1001}) {
      std::vector<float> x(columns), weight(columns), y(columns);
      for (int i = 0; i < columns; ++i) {
        x[i] = normal(random);
        weight[i] = normal(random);
      }
      RmsNormRow({weight.data(), 1e-5f}, x.data(), columns, y.data());
      RmsNormRow({weight.data(), 1e-5f}, x.data(), columns, x.data());
      ASSERT_EQ(x, y) << Name(set) << " columns " << columns;
    }
  }
  LimitInstructionSet(kHighestInstructionSet);
}

}  // namespace
}  // namespace mambad::kernels
