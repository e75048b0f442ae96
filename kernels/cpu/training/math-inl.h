// Vector functions of the training operations for float and double, and sums over lanes. Double
// serves finite differences: its functions go through the standard library, lane by lane. Included
// once a target by files that use Highway's foreach_target.

#if defined(MAMBAD_KERNELS_CPU_TRAINING_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBAD_KERNELS_CPU_TRAINING_MATH_INL_H_
#undef MAMBAD_KERNELS_CPU_TRAINING_MATH_INL_H_
#else
#define MAMBAD_KERNELS_CPU_TRAINING_MATH_INL_H_
#endif

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/cpu/exp2-inl.h"
#include "kernels/cpu/math-inl.h"
#include "kernels/cpu/training/layout.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// Vectors of at most kTrainingLanes numbers.
template <typename T>
using Lanes = hn::CappedTag<T, cpu::kTrainingLanes>;
template <typename T>
using Vector = hn::Vec<Lanes<T>>;
template <typename T>
inline constexpr int kLanesOf = static_cast<int>(hn::MaxLanes(Lanes<T>()));

template <typename T>
inline constexpr bool kIsFloat = std::is_same_v<T, float>;

inline constexpr double kLog2eDouble = 1.4426950408889634074;

template <typename Function>
HWY_INLINE Vector<double> EachLane(Vector<double> x, Function function) {
  const Lanes<double> d;
  HWY_ALIGN double lanes[kLanesOf<double>];
  hn::Store(x, d, lanes);
  for (double& lane : lanes) lane = function(lane);
  return hn::Load(d, lanes);
}

// e^x
HWY_INLINE Vector<float> TrainingExp(Vector<float> x) { return Exp(Lanes<float>(), x); }
HWY_INLINE Vector<double> TrainingExp(Vector<double> x) {
  return EachLane(x, [](double v) { return std::exp(v); });
}

// 2^x for x <= 0
HWY_INLINE Vector<float> Decay(Vector<float> x) { return Exp2(Lanes<float>(), x); }
HWY_INLINE Vector<double> Decay(Vector<double> x) {
  return EachLane(x, [](double v) { return std::exp2(v); });
}

HWY_INLINE Vector<float> TrainingSoftplus(Vector<float> x) { return Softplus(Lanes<float>(), x); }
HWY_INLINE Vector<double> TrainingSoftplus(Vector<double> x) {
  return EachLane(x,
                  [](double v) { return std::max(v, 0.0) + std::log1p(std::exp(-std::fabs(v))); });
}

// 1 / (1 + e^-x): the derivative of softplus.
HWY_INLINE Vector<float> Sigmoid(Vector<float> x) {
  const Lanes<float> d;
  const auto one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, BoundedExp(d, hn::Neg(x))));
}
HWY_INLINE Vector<double> Sigmoid(Vector<double> x) {
  return EachLane(x, [](double v) { return 1 / (1 + std::exp(-v)); });
}

// The derivative of x sigmoid(x), where sigmoid(x) is known: s (1 + x (1 - s)).
template <typename T>
HWY_INLINE Vector<T> SiluSlope(Vector<T> x, Vector<T> sigmoid) {
  const auto one = hn::Set(Lanes<T>(), T{1});
  return hn::Mul(sigmoid, hn::MulAdd(x, hn::Sub(one, sigmoid), one));
}

#if HWY_TARGET != HWY_SCALAR
// The sum of a vector's blocks of four lanes.
template <typename D>
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> FoldToFour(D d, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return v;
  } else {
    const hn::Half<D> half;
    return FoldToFour(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

// Four sums of lanes in four lanes, about four instructions each.
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> FourSums(const Vector<float>* from) {
  const Lanes<float> d;
  const hn::Repartition<uint64_t, Lanes<float>> wide;
  const auto low = hn::BitCast(wide, hn::Add(hn::InterleaveLower(d, from[0], from[1]),
                                             hn::InterleaveUpper(d, from[0], from[1])));
  const auto high = hn::BitCast(wide, hn::Add(hn::InterleaveLower(d, from[2], from[3]),
                                              hn::InterleaveUpper(d, from[2], from[3])));
  // Each block of four lanes has a part of the four sums.
  return FoldToFour(d, hn::Add(hn::BitCast(d, hn::InterleaveLower(wide, low, high)),
                               hn::BitCast(d, hn::InterleaveUpper(wide, low, high))));
}
#endif

// to[k] += the sum of the lanes of from[k], for four vectors. Lanes are added in an order of their
// own.
template <typename T>
HWY_INLINE void AddFourSums(const Vector<T>* from, T* to) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (kIsFloat<T>) {
    const hn::CappedTag<float, 4> four;
    hn::StoreU(hn::Add(hn::LoadU(four, to), FourSums(from)), four, to);
    return;
  }
#endif
  for (int k = 0; k < 4; ++k) to[k] += hn::GetLane(hn::SumOfLanes(Lanes<T>(), from[k]));
}

// The same for kCount vectors: 1 or a multiple of 4.
template <int kCount, typename T>
HWY_INLINE void AddSums(const Vector<T>* from, T* to) {
  if constexpr (kCount % 4 == 0) {
    for (int k = 0; k < kCount; k += 4) AddFourSums<T>(from + k, to + k);
  } else {
    static_assert(kCount == 1);
    to[0] += hn::GetLane(hn::SumOfLanes(Lanes<T>(), from[0]));
  }
}

// out[i] = the sum of count arrays that lie `step` apart, added in their order.
template <typename T>
HWY_INLINE void SumArrays(const T* arrays, int64_t step, int64_t count, int64_t numbers, T* out) {
  const Lanes<T> d;
  int64_t i = 0;
  for (; i + kLanesOf<T> <= numbers; i += kLanesOf<T>) {
    auto sum = hn::LoadU(d, arrays + i);
    for (int64_t k = 1; k < count; ++k) sum = hn::Add(sum, hn::LoadU(d, arrays + k * step + i));
    hn::StoreU(sum, d, out + i);
  }
  for (; i < numbers; ++i) {
    T sum = arrays[i];
    for (int64_t k = 1; k < count; ++k) sum += arrays[k * step + i];
    out[i] = sum;
  }
}

// The same for `groups` groups of `count` arrays, all `step` apart; out: [groups, numbers].
template <typename T>
HWY_INLINE void SumGroups(const T* arrays, int64_t step, int64_t count, int64_t groups,
                          int64_t numbers, T* out) {
  for (int64_t g = 0; g < groups; ++g) {
    SumArrays(arrays + g * count * step, step, count, numbers, out + g * numbers);
  }
}

// sum[i] = or += from[i], in parameters of type T.
template <typename T>
HWY_INLINE void AddOrSet(const T* from, int64_t count, bool set, void* sum) {
  T* to = static_cast<T*>(sum);
  for (int64_t i = 0; i < count; ++i) to[i] = set ? from[i] : to[i] + from[i];
}

template <typename T>
HWY_INLINE T Dot(const T* x, const T* y, int64_t count) {
  const Lanes<T> d;
  auto sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanesOf<T> <= count; i += kLanesOf<T>) {
    sum = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, y + i), sum);
  }
  T total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < count; ++i) total += x[i] * y[i];
  return total;
}

// out = p x + q y
template <typename T>
HWY_INLINE void AddProducts(T p, const T* x, T q, const T* y, int64_t count, T* out) {
  const Lanes<T> d;
  const auto vp = hn::Set(d, p), vq = hn::Set(d, q);
  int64_t i = 0;
  for (; i + kLanesOf<T> <= count; i += kLanesOf<T>) {
    hn::StoreU(hn::MulAdd(vp, hn::LoadU(d, x + i), hn::Mul(vq, hn::LoadU(d, y + i))), d, out + i);
  }
  for (; i < count; ++i) out[i] = p * x[i] + q * y[i];
}

// Copies numbers by whole vectors where it can: what is loaded as a vector later must be stored as
// one.
template <typename T>
HWY_INLINE void CopyNumbers(const T* from, int64_t count, T* to) {
  const Lanes<T> d;
  int64_t i = 0;
  for (; i + kLanesOf<T> <= count; i += kLanesOf<T>) hn::StoreU(hn::LoadU(d, from + i), d, to + i);
  for (; i < count; ++i) to[i] = from[i];
}

}  // namespace
}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBAD_KERNELS_CPU_TRAINING_MATH_INL_H_
