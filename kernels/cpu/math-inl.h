// Vector exp, SiLU and softplus: one implementation, so that every path agrees bit for bit.
// Included once a target by files that use Highway's foreach_target.

#if defined(MAMBAD_KERNELS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBAD_KERNELS_CPU_MATH_INL_H_
#undef MAMBAD_KERNELS_CPU_MATH_INL_H_
#else
#define MAMBAD_KERNELS_CPU_MATH_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// e^x for float lanes, within 2 units in the last place on [-87, 88]; 0 below, +infinity above, NaN
// stays NaN. x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7; scaled by
// 2^n in two steps.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  const hn::Rebind<int32_t, D> di;
  const V low = hn::Set(d, -104.0f), high = hn::Set(d, 89.0f);
  const V bounded = hn::Min(hn::Max(x, low), high);
  const V n = hn::Round(hn::Mul(bounded, hn::Set(d, 1.44269504088896341f)));
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), bounded);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  V p = hn::Set(d, 1.0f / 5040);
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 720));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  // 2^n overflows the exponent field at both ends: multiply by 2^(n/2) twice.
  const auto exponent = hn::ConvertTo(di, n);
  const auto half = hn::ShiftRight<1>(exponent);
  const auto bias = hn::Set(di, 127);
  const V scale1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const V scale2 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(exponent, half), bias)));
  const V result = hn::Mul(hn::Mul(p, scale1), scale2);
  return hn::IfThenElse(hn::IsNaN(x), x, result);
}

// e^x for x in [-87, 88], as accurate as Exp there in half the instructions; arguments beyond
// saturate. NaN stays NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V BoundedExp(D d, V x) {
  const hn::Rebind<int32_t, D> di;
  // The second operand of Min and Max on x86 is what a NaN turns out as.
  const V bounded = hn::Min(hn::Set(d, 88.0f), hn::Max(hn::Set(d, -87.0f), x));
  const V magic = hn::Set(
      d, 12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer that stands in the low bits
  const V shifted = hn::MulAdd(bounded, hn::Set(d, 1.44269504088896341f), magic);
  const V n = hn::Sub(shifted, magic);
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), bounded);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  V p = hn::Set(d, 1.0f / 5040);
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 720));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}

// x / (1 + e^-x)
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SiLU(D d, V x) {
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), BoundedExp(d, hn::Neg(x))));
}

// log(1 + e^x) = max(x, 0) + log(1 + u), u = e^-|x|; above 20 this is x. log(1 + u) = u + u^2 r(u)
// with a minimax polynomial r of degree 8 on [0, 1]: exact for small u, and no division.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Softplus(D d, V x) {
  const V u = BoundedExp(d, hn::Neg(hn::Abs(x)));
  V p = hn::Set(d, -0.0033184613566845655f);
  p = hn::MulAdd(p, u, hn::Set(d, 0.020204534754157066f));
  p = hn::MulAdd(p, u, hn::Set(d, -0.05766434967517853f));
  p = hn::MulAdd(p, u, hn::Set(d, 0.1068054586648941f));
  p = hn::MulAdd(p, u, hn::Set(d, -0.15355390310287476f));
  p = hn::MulAdd(p, u, hn::Set(d, 0.19695398211479187f));
  p = hn::MulAdd(p, u, hn::Set(d, -0.24958586692810059f));
  p = hn::MulAdd(p, u, hn::Set(d, 0.33330512046813965f));
  p = hn::MulAdd(p, u, hn::Set(d, -0.4999993145465851f));
  p = hn::MulAdd(p, u, hn::Set(d, 1.0f));
  return hn::MulAdd(p, u, hn::Max(hn::Zero(d), x));
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBAD_KERNELS_CPU_MATH_INL_H_
