// Vector exp, SiLU and softplus: one implementation, so that every path agrees bit for bit. Included once a target by files
// that use Highway's foreach_target.

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

// e^x for float lanes, within 2 units in the last place on [-87, 88]; 0 below, +infinity above, NaN stays NaN.
// x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7; scaled by 2^n in two steps.
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

// x / (1 + e^-x)
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SiLU(D d, V x) {
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), Exp(d, hn::Neg(x))));
}

// log(1 + y) for y in [0, infinity): exact for small y. With u = 1 + y, log(u) * y / (u - 1) cancels u's rounding.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1p(D d, V y) {
  const hn::Rebind<int32_t, D> di;
  const V one = hn::Set(d, 1.0f);
  const V u = hn::Add(y, one);
  // log(u) = e ln 2 + log(m), m in [sqrt(1/2), sqrt(2)); log(m) = 2 atanh((m - 1) / (m + 1)).
  const auto bits = hn::BitCast(di, u);
  const auto offset = hn::Sub(bits, hn::Set(di, 0x3f3504f3));
  const auto exponent = hn::ShiftRight<23>(offset);
  const V m = hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(exponent)));
  const V s = hn::Div(hn::Sub(m, one), hn::Add(m, one));
  const V z = hn::Mul(s, s);
  V p = hn::Set(d, 2.0f / 11);
  p = hn::MulAdd(p, z, hn::Set(d, 2.0f / 9));
  p = hn::MulAdd(p, z, hn::Set(d, 2.0f / 7));
  p = hn::MulAdd(p, z, hn::Set(d, 2.0f / 5));
  p = hn::MulAdd(p, z, hn::Set(d, 2.0f / 3));
  p = hn::MulAdd(p, z, hn::Set(d, 2.0f));
  const V log_u = hn::MulAdd(hn::ConvertTo(d, exponent), hn::Set(d, 0.6931471805599453f), hn::Mul(s, p));
  const V delta = hn::Sub(u, one);
  const V corrected = hn::Div(hn::Mul(log_u, y), delta);
  return hn::IfThenElse(hn::Eq(delta, hn::Zero(d)), y, corrected);
}

// log(1 + e^x), the identity above 20.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Softplus(D d, V x) {
  const V threshold = hn::Set(d, 20.0f);
  const V soft = Log1p(d, Exp(d, hn::Min(x, threshold)));
  return hn::IfThenElse(hn::Gt(x, threshold), x, soft);
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBAD_KERNELS_CPU_MATH_INL_H_
