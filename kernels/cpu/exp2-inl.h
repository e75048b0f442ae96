// 2^x for arguments that the caller knows to be at most 127: decays and softmax weights. Half the
// instructions of Exp. Included once a target by files that use Highway's foreach_target.

#if defined(MAMBAD_KERNELS_CPU_EXP2_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBAD_KERNELS_CPU_EXP2_INL_H_
#undef MAMBAD_KERNELS_CPU_EXP2_INL_H_
#else
#define MAMBAD_KERNELS_CPU_EXP2_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {

inline constexpr float kLog2e = 1.44269504088896341f;

// 2^x for x in [-infinity, 127]; 2^-126 below -126; 1 exactly at 0. Within 2 units in the last
// place: x = n + f with integer n and |f| <= 1/2; 2^f by a minimax polynomial of degree 6 whose
// constant is exactly 1, so that decays near 1 carry no bias.
template <class D, class V = hwy::HWY_NAMESPACE::Vec<D>>
HWY_INLINE V Exp2(D d, V x) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<int32_t, D> di;
  const V magic = hn::Set(
      d, 12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer that stands in the low bits
  const V bounded = hn::Max(x, hn::Set(d, -126.0f));
  const V shifted = hn::Add(bounded, magic);
  const V f = hn::Sub(bounded, hn::Sub(shifted, magic));
  V p = hn::Set(d, 0.0001535336341476068f);
  p = hn::MulAdd(p, f, hn::Set(d, 0.0013398875016719103f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.00961843691766262f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.055503323674201965f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.24022647738456726f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.6931471824645996f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBAD_KERNELS_CPU_EXP2_INL_H_
