#include "kernels/cpu/gate.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gate.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void SiluGate(const float* gate, const float* up, int64_t count, float* y) {
  using D = hn::CappedTag<float, 16>;
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
  const D d;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(hn::Mul(SiLU(d, hn::LoadU(d, gate + i)), hn::LoadU(d, up + i)), d, y + i);
  }
  if (i == count) return;
  // The rest goes through the same instructions, so that where a number stands does not change it.
  HWY_ALIGN float rest_gate[kLanes] = {}, rest_up[kLanes] = {};
  std::copy(gate + i, gate + count, rest_gate);
  std::copy(up + i, up + count, rest_up);
  hn::Store(hn::Mul(SiLU(d, hn::Load(d, rest_gate)), hn::Load(d, rest_up)), d, rest_gate);
  std::copy(rest_gate, rest_gate + (count - i), y + i);
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(SiluGate);

void SiluGate(const float* gate, const float* up, int64_t count, float* y) {
  HWY_DYNAMIC_DISPATCH(SiluGate)(gate, up, count, y);
}

}  // namespace mambad::kernels
#endif  // HWY_ONCE
