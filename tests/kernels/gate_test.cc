#include "kernels/cpu/gate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/cpu/instruction_set.h"

namespace mambad::kernels {
namespace {

TEST(GateTest, AgreesWithFloat64AndDoesNotDependOnThePlace) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-30, 30);
  for (InstructionSet set : AvailableInstructionSets()) {
    LimitInstructionSet(set);
    std::vector<float> gate(203), up(203), y(203), shifted(203);
    for (int i = 0; i < 203; ++i) {
      gate[i] = uniform(random);
      up[i] = uniform(random);
    }
    SiluGate(gate.data(), up.data(), 203, y.data());
    for (int i = 0; i < 203; ++i) {
      const double expected = gate[i] / (1 + std::exp(-double{gate[i]})) * up[i];
      ASSERT_NEAR(y[i], expected, 1e-6 * std::abs(expected)) << Name(set) << ", gate " << gate[i];
    }
    for (int first : {1, 5, 16, 202}) {
      SiluGate(gate.data() + first, up.data() + first, 203 - first, shifted.data() + first);
      for (int i = first; i < 203; ++i)
        ASSERT_EQ(shifted[i], y[i]) << Name(set) << ", from " << first;
    }
  }
  LimitInstructionSet(kHighestInstructionSet);
}

}  // namespace
}  // namespace mambad::kernels
