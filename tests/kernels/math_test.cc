// The shared exponential and what is built on it, against float64, on every instruction set of
// the machine.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/instruction_set.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/kernels/math_test.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {

using D = hwy::HWY_NAMESPACE::CappedTag<float, 16>;

template <typename Function>
void Apply(const std::vector<float>& x, std::vector<float>& y, const Function& function) {
  namespace hn = hwy::HWY_NAMESPACE;
  const D d;
  y.resize(x.size());
  HWY_ALIGN float lanes[16];
  for (size_t i = 0; i < x.size(); ++i) {
    hn::Store(function(d, hn::Set(d, x[i])), d, lanes);
    y[i] = lanes[i % hn::MaxLanes(d)];
  }
}

void AllExp(const std::vector<float>& x, std::vector<float>& y) {
  Apply(x, y, [](D d, hwy::HWY_NAMESPACE::Vec<D> v) { return Exp(d, v); });
}
void AllSiLU(const std::vector<float>& x, std::vector<float>& y) {
  Apply(x, y, [](D d, hwy::HWY_NAMESPACE::Vec<D> v) { return SiLU(d, v); });
}
void AllSoftplus(const std::vector<float>& x, std::vector<float>& y) {
  Apply(x, y, [](D d, hwy::HWY_NAMESPACE::Vec<D> v) { return Softplus(d, v); });
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(AllExp);
HWY_EXPORT(AllSiLU);
HWY_EXPORT(AllSoftplus);

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> Numbers(float low, float high) {
  std::vector<float> x;
  for (int i = 0; i <= 40000; ++i) x.push_back(low + (high - low) * static_cast<float>(i) / 40000);
  return x;
}

double Ulp(double value) {
  const float f = static_cast<float>(std::abs(value));
  return std::nextafter(f, kInfinity) - f;
}

class MathTest : public testing::TestWithParam<InstructionSet> {
 protected:
  void SetUp() override { LimitInstructionSet(GetParam()); }
  void TearDown() override { LimitInstructionSet(kHighestInstructionSet); }
};

TEST_P(MathTest, ExpIsWithinTwoUnitsInTheLastPlace) {
  const std::vector<float> x = Numbers(-87, 88);
  std::vector<float> y;
  HWY_DYNAMIC_DISPATCH(AllExp)(x, y);
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(double{x[i]});
    ASSERT_LE(std::abs(y[i] - expected), 2 * Ulp(expected)) << x[i];
  }
}

TEST_P(MathTest, ExpIsRightAtItsEnds) {
  std::vector<float> y;
  HWY_DYNAMIC_DISPATCH(AllExp)({-kInfinity, -1e30f, -110, -0.0f, 0, 100, 1e30f, kInfinity, NAN}, y);
  EXPECT_EQ(y[0], 0);
  EXPECT_EQ(y[1], 0);
  EXPECT_EQ(y[2], 0);
  EXPECT_EQ(y[3], 1);
  EXPECT_EQ(y[4], 1);
  EXPECT_EQ(y[5], kInfinity);
  EXPECT_EQ(y[6], kInfinity);
  EXPECT_EQ(y[7], kInfinity);
  EXPECT_TRUE(std::isnan(y[8]));
}

TEST_P(MathTest, SiLUAgreesWithFloat64) {
  const std::vector<float> x = Numbers(-80, 100);
  std::vector<float> y;
  HWY_DYNAMIC_DISPATCH(AllSiLU)(x, y);
  for (size_t i = 0; i < x.size(); ++i) {
    const double expected = x[i] / (1 + std::exp(-double{x[i]}));
    ASSERT_LE(std::abs(y[i] - expected), 4 * Ulp(expected)) << x[i];
  }
}

TEST_P(MathTest, SoftplusAgreesWithFloat64AndIsTheIdentityAboveTwenty) {
  const std::vector<float> x = Numbers(-80, 40);
  std::vector<float> y;
  HWY_DYNAMIC_DISPATCH(AllSoftplus)(x, y);
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] > 20) {
      ASSERT_EQ(y[i], x[i]);
    } else {
      const double expected = std::log1p(std::exp(double{x[i]}));
      ASSERT_LE(std::abs(y[i] - expected), 4 * Ulp(expected)) << x[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryInstructionSet, MathTest,
                         testing::ValuesIn(AvailableInstructionSets()), [](const auto& info) {
                           std::string name = Name(info.param);
                           std::erase_if(name, [](char c) { return c == ' ' || c == '-'; });
                           return name;
                         });

}  // namespace
}  // namespace mambad::kernels
#endif  // HWY_ONCE
