#include "kernels/cpu/norm.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));

// Four vectors of partial sums, added pairwise, then lane by lane; what fills no vector comes last.
float SumOfSquares(const float* x, int64_t columns) {
  const D d;
  V sum0 = hn::Zero(d), sum1 = hn::Zero(d), sum2 = hn::Zero(d), sum3 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 4 * kLanes <= columns; i += 4 * kLanes) {
    const V x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + kLanes);
    const V x2 = hn::LoadU(d, x + i + 2 * kLanes), x3 = hn::LoadU(d, x + i + 3 * kLanes);
    sum0 = hn::MulAdd(x0, x0, sum0);
    sum1 = hn::MulAdd(x1, x1, sum1);
    sum2 = hn::MulAdd(x2, x2, sum2);
    sum3 = hn::MulAdd(x3, x3, sum3);
  }
  HWY_ALIGN float lanes[kLanes];
  hn::Store(hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3)), d, lanes);
  float sum = 0;
  for (float lane : lanes) sum += lane;
  for (; i < columns; ++i) sum += x[i] * x[i];
  return sum;
}

void RmsNormRow(const NormWeights& norm, const float* x, int64_t columns, float* y) {
  const D d;
  const float mean = SumOfSquares(x, columns) / static_cast<float>(columns);
  const float scale = 1.0f / std::sqrt(mean + norm.epsilon);
  const V scales = hn::Set(d, scale);
  int64_t i = 0;
  if (norm.weight == nullptr) {
    for (; i < columns; ++i) y[i] = x[i] * scale;
    return;
  }
  for (; i + kLanes <= columns; i += kLanes) {
    const V scaled = hn::Mul(hn::LoadU(d, x + i), scales);
    hn::StoreU(hn::Mul(scaled, hn::LoadU(d, norm.weight + i)), d, y + i);
  }
  for (; i < columns; ++i) y[i] = x[i] * scale * norm.weight[i];
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(RmsNormRow);

void RmsNormRow(const NormWeights& norm, const float* x, int64_t columns, float* y) {
  HWY_DYNAMIC_DISPATCH(RmsNormRow)(norm, x, columns, y);
}

}  // namespace mambad::kernels
#endif  // HWY_ONCE
