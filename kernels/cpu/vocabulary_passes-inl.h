// Vector passes over a block of a row of logits: what sampling does to every id. Included once a
// target by token_distribution.cc. Sums have one order whatever the vector width: 16 lanes, then
// doubles.

#if defined(MAMBAD_KERNELS_CPU_VOCABULARY_PASSES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBAD_KERNELS_CPU_VOCABULARY_PASSES_INL_H_
#undef MAMBAD_KERNELS_CPU_VOCABULARY_PASSES_INL_H_
#else
#define MAMBAD_KERNELS_CPU_VOCABULARY_PASSES_INL_H_
#endif

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "hwy/highway.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kLanes = 16;
using FloatTag = hn::CappedTag<float, kLanes>;

// Runs body(i) for whole vectors of [0, count) and tail(i) for what is left after the last 16.
template <class Body, class Tail>
HWY_INLINE void ForVectors(int64_t count, const Body& body, const Tail& tail) {
  const int64_t whole = count / kLanes * kLanes;
  const int64_t step = static_cast<int64_t>(hn::Lanes(FloatTag()));
  for (int64_t i = 0; i < whole; i += step) body(i);
  if (whole < count) tail(whole);
}

// Largest number that is not NaN; -infinity when there is none.
float BlockMaximum(const float* x, int64_t count) {
  const FloatTag d;
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  auto even = hn::Set(d, kNone), odd = even;
  int64_t i = 0;
  for (; i + 2 * step <= count; i += 2 * step) {
    const auto a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + i + step);
    even = hn::IfThenElse(hn::Gt(a, even), a, even);
    odd = hn::IfThenElse(hn::Gt(b, odd), b, odd);
  }
  HWY_ALIGN float lanes[kLanes];
  hn::Store(hn::Max(even, odd), d, lanes);
  float best = kNone;
  for (int64_t lane = 0; lane < step; ++lane) best = lanes[lane] > best ? lanes[lane] : best;
  for (; i < count; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

// First index in [begin, count) with x > threshold (or_equal: x >= threshold); count when there is
// none.
int64_t FindAbove(const float* x, int64_t begin, int64_t count, float threshold, bool or_equal) {
  const FloatTag d;
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  const auto limit = hn::Set(d, threshold);
  int64_t i = begin;
  for (; i + step <= count; i += step) {
    const auto v = hn::LoadU(d, x + i);
    const auto hit = or_equal ? hn::Ge(v, limit) : hn::Gt(v, limit);
    const intptr_t first = hn::FindFirstTrue(d, hit);
    if (first >= 0) return i + first;
  }
  for (; i < count; ++i) {
    if (or_equal ? x[i] >= threshold : x[i] > threshold) return i;
  }
  return count;
}

// Sum of x: every 256 numbers in 16 float lanes, those in doubles.
double BlockSum(const float* x, int64_t count) {
  const FloatTag d;
  constexpr int64_t kChunk = 256;
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  HWY_ALIGN float lanes[kLanes];
  double total = 0;
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t begin = 0; begin < whole; begin += kChunk) {
    const int64_t end = whole - begin < kChunk ? whole : begin + kChunk;
    for (int64_t lane = 0; lane < kLanes; lane += step) {
      auto sum = hn::Zero(d);
      for (int64_t i = begin; i < end; i += kLanes) sum = hn::Add(sum, hn::LoadU(d, x + i + lane));
      hn::Store(sum, d, lanes + lane);
    }
    for (float lane : lanes) total += lane;
  }
  for (int64_t i = whole; i < count; ++i) total += x[i];
  return total;
}

template <class V>
HWY_INLINE V Weights(FloatTag d, V x, float maximum, float temperature) {
  const auto bounded = hn::Min(x, hn::Set(d, FLT_MAX));
  const auto exponent = hn::Div(hn::Sub(bounded, hn::Set(d, maximum)), hn::Set(d, temperature));
  const auto possible =
      hn::Gt(x, hn::Set(d, -std::numeric_limits<float>::infinity()));  // false for NaN
  return hn::IfThenElseZero(possible, Exp(d, hn::Min(exponent, hn::Zero(d))));
}

// weights = e^((x - maximum) / temperature), 0 for NaN and -infinity; `maximum` is finite. In place
// is allowed.
void BlockWeights(const float* x, int64_t count, float maximum, float temperature, float* weights) {
  const FloatTag d;
  const auto body = [&](int64_t i) {
    hn::StoreU(Weights(d, hn::LoadU(d, x + i), maximum, temperature), d, weights + i);
  };
  ForVectors(count, body, [&](int64_t begin) {
    HWY_ALIGN float rest[kLanes] = {};
    std::memcpy(rest, x + begin, (count - begin) * sizeof(float));
    const int64_t step = static_cast<int64_t>(hn::Lanes(d));
    for (int64_t i = 0; i < kLanes; i += step) {
      hn::Store(Weights(d, hn::Load(d, rest + i), maximum, temperature), d, rest + i);
    }
    std::memcpy(weights + begin, rest, (count - begin) * sizeof(float));
  });
}

// out = logits + bias (nullptr: none), then penalties by `counts` (nullptr: none); see
// PenalisedLogit in token_distribution.cc, whose arithmetic this repeats operation for operation.
void BlockPenalise(const float* logits, int64_t count, const float* bias, const int32_t* counts,
                   float repetition, float presence, float frequency, float* out) {
  const FloatTag d;
  const hn::Rebind<int32_t, FloatTag> di;
  const auto one = [&](auto load, auto load_bias, auto load_counts) {
    auto x = load();
    if (bias != nullptr) x = hn::Add(x, load_bias());
    if (counts == nullptr) return x;
    const auto word = load_counts();
    const auto factor = hn::Set(d, repetition);
    const auto repeated =
        hn::IfThenElse(hn::Gt(x, hn::Zero(d)), hn::Div(x, factor), hn::Mul(x, factor));
    x = hn::IfThenElse(hn::RebindMask(d, hn::Ne(word, hn::Zero(di))), repeated, x);
    const auto times = hn::And(word, hn::Set(di, 0x7fffffff));
    const auto answered = hn::Sub(
        hn::Sub(x, hn::Mul(hn::Set(d, frequency), hn::ConvertTo(d, times))), hn::Set(d, presence));
    return hn::IfThenElse(hn::RebindMask(d, hn::Gt(times, hn::Zero(di))), answered, x);
  };
  const auto body = [&](int64_t i) {
    hn::StoreU(one([&] { return hn::LoadU(d, logits + i); }, [&] { return hn::LoadU(d, bias + i); },
                   [&] { return hn::LoadU(di, counts + i); }),
               d, out + i);
  };
  ForVectors(count, body, [&](int64_t begin) {
    HWY_ALIGN float x[kLanes] = {}, added[kLanes] = {};
    HWY_ALIGN int32_t words[kLanes] = {};
    const size_t left = static_cast<size_t>(count - begin);
    std::memcpy(x, logits + begin, left * sizeof(float));
    if (bias != nullptr) std::memcpy(added, bias + begin, left * sizeof(float));
    if (counts != nullptr) std::memcpy(words, counts + begin, left * sizeof(int32_t));
    const int64_t step = static_cast<int64_t>(hn::Lanes(d));
    for (int64_t i = 0; i < kLanes; i += step) {
      hn::Store(one([&] { return hn::Load(d, x + i); }, [&] { return hn::Load(d, added + i); },
                    [&] { return hn::Load(di, words + i); }),
                d, x + i);
    }
    std::memcpy(out + begin, x, left * sizeof(float));
  });
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBAD_KERNELS_CPU_VOCABULARY_PASSES_INL_H_
