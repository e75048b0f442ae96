#include "tests/bench/multiply_add_rate.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/multiply_add_rate.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Ten independent chains; returns how many multiply-adds were done, and a value that keeps them
// alive.
double MultiplyAdds(int64_t loops, float* alive) {
  const hn::CappedTag<float, 16> d;
  const auto factor = hn::Set(d, 0.999f), term = hn::Set(d, 0.001f);
  // All different, or the compiler keeps one of them.
  auto a0 = hn::Iota(d, 0.0f), a1 = hn::Iota(d, 1.0f), a2 = hn::Iota(d, 2.0f),
       a3 = hn::Iota(d, 3.0f);
  auto a4 = hn::Iota(d, 4.0f), a5 = hn::Iota(d, 5.0f), a6 = hn::Iota(d, 6.0f),
       a7 = hn::Iota(d, 7.0f);
  auto a8 = hn::Iota(d, 8.0f), a9 = hn::Iota(d, 9.0f);
  for (int64_t i = 0; i < loops; ++i) {
    a0 = hn::MulAdd(a0, factor, term);
    a1 = hn::MulAdd(a1, factor, term);
    a2 = hn::MulAdd(a2, factor, term);
    a3 = hn::MulAdd(a3, factor, term);
    a4 = hn::MulAdd(a4, factor, term);
    a5 = hn::MulAdd(a5, factor, term);
    a6 = hn::MulAdd(a6, factor, term);
    a7 = hn::MulAdd(a7, factor, term);
    a8 = hn::MulAdd(a8, factor, term);
    a9 = hn::MulAdd(a9, factor, term);
  }
  const auto low = hn::Add(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)), hn::Add(a4, a5));
  const auto sum = hn::Add(low, hn::Add(hn::Add(a6, a7), hn::Add(a8, a9)));
  *alive += hn::GetLane(sum);
  return 10.0 * static_cast<double>(loops) * static_cast<double>(hn::Lanes(d));
}

}  // namespace mambad::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::bench {

HWY_EXPORT(MultiplyAdds);

double MultiplyAddRate(kernels::ThreadPool& pool) {
  double best = 0;
  for (int round = 0; round < 40; ++round) {
    const auto start = std::chrono::steady_clock::now();
    double done[1024] = {};  // by thread: at most so many
    pool.Split(4 * pool.threads(), 1, [&](int64_t begin, int64_t end, int thread) {
      volatile float sink;
      for (int64_t part = begin; part < end; ++part) {
        float alive = 0;
        done[thread] += HWY_DYNAMIC_DISPATCH(MultiplyAdds)(5000, &alive);
        sink = alive;
        (void)sink;
      }
    });
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    double all = 0;
    for (const double one : done) all += one;
    best = std::max(best, all / seconds);
  }
  return best;
}

}  // namespace mambad::bench
#endif  // HWY_ONCE
