// The race of a block of ids, by vectors. Included once a target by token_distribution.cc.

#if defined(MAMBAD_KERNELS_CPU_TOKEN_RACE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBAD_KERNELS_CPU_TOKEN_RACE_INL_H_
#undef MAMBAD_KERNELS_CPU_TOKEN_RACE_INL_H_
#else
#define MAMBAD_KERNELS_CPU_TOKEN_RACE_INL_H_
#endif

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/cpu/philox.h"
#include "kernels/cpu/token_distribution.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kRaceIds = 64;  // ids whose words are made at once

// RaceWords of the 16 groups from `group` on, by id. 32-bit numbers in 64-bit lanes, whose upper
// halves are not looked at: the products are of the lower ones.
HWY_INLINE void RaceWordsOfIds(const RaceDraw& draw, uint32_t group, uint32_t* words) {
#if HWY_TARGET == HWY_SCALAR
  for (uint32_t g = 0; g < kRaceIds / 4; ++g) {
    const std::array<uint32_t, 4> four = RaceWords(draw, group + g);
    std::copy(four.begin(), four.end(), words + 4 * g);
  }
#else
  const hn::CappedTag<uint64_t, 8> d;
  const hn::Repartition<uint32_t, decltype(d)> d32;
  const auto multiplier0 = hn::BitCast(d32, hn::Set(d, uint64_t{kPhiloxMultiplier0}));
  const auto multiplier1 = hn::BitCast(d32, hn::Set(d, uint64_t{kPhiloxMultiplier1}));
  const auto low = hn::Set(d, uint64_t{0xffffffff});
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t g = 0; g < kRaceIds / 4; g += step) {
    auto c0 = hn::Iota(d, uint64_t{group} + g);
    auto c1 = hn::Set(d, uint64_t{draw.position}), c2 = hn::Set(d, uint64_t{draw.sample});
    auto c3 = hn::Zero(d);
    auto key0 = static_cast<uint32_t>(draw.seed), key1 = static_cast<uint32_t>(draw.seed >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const auto product0 = hn::MulEven(multiplier0, hn::BitCast(d32, c0));
      const auto product1 = hn::MulEven(multiplier1, hn::BitCast(d32, c2));
      c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product1), c1), hn::Set(d, uint64_t{key0}));
      c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product0), c3), hn::Set(d, uint64_t{key1}));
      c1 = product1;
      c3 = product0;
      key0 += kPhiloxWeyl0;
      key1 += kPhiloxWeyl1;
    }
    const auto first = hn::Or(hn::And(c0, low), hn::ShiftLeft<32>(c1));
    const auto second = hn::Or(hn::And(c2, low), hn::ShiftLeft<32>(c3));
    hn::StoreInterleaved2(first, second, d, reinterpret_cast<uint64_t*>(words + 4 * g));
  }
#endif
}

// Lets `leader` be the first to arrive of itself and ids [begin, begin + 64), whose weights are
// `weights`. An id arrives no sooner than its uniform number / weight, so that nearly all are
// dismissed without a logarithm, and whole groups of light ids without noise.
HWY_INLINE void RaceIds(const float* weights, int64_t begin, const RaceDraw& draw,
                        RaceLeader* leader) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<int32_t, decltype(d)> di;
  const hn::Rebind<uint32_t, decltype(d)> du;
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  // Wider than rounding, so that nothing is dismissed that would have won.
  const auto bound_of = [](double time) { return static_cast<float>(time * (1 + 1e-5)); };
  float bound = bound_of(leader->time);
  auto heaviest = hn::LoadU(d, weights);
  for (int64_t i = step; i < kRaceIds; i += step) {
    heaviest = hn::Max(heaviest, hn::LoadU(d, weights + i));
  }
  const float heaviest_weight = hn::GetLane(hn::MaxOfLanes(d, heaviest));
  if (!(heaviest_weight > 0) || heaviest_weight * bound < 0x1p-33f) return;
  HWY_ALIGN uint32_t words[kRaceIds];
  RaceWordsOfIds(draw, static_cast<uint32_t>(begin / 4), words);
  for (int64_t i = 0; i < kRaceIds; i += step) {
    const auto half = hn::BitCast(di, hn::ShiftRight<1>(hn::Load(du, words + i)));
    const auto uniform = hn::Mul(hn::ConvertTo(d, half), hn::Set(d, 0x1p-31f));
    const auto weight = hn::LoadU(d, weights + i);
    const auto reach = hn::Mul(weight, hn::Set(d, bound));
    const auto may_win = hn::And(hn::Le(uniform, reach), hn::Gt(weight, hn::Zero(d)));
    if (hn::AllFalse(d, may_win)) continue;
    for (int64_t j = i; j < i + step; ++j) {
      if (weights[j] > 0) {
        leader->Meet({ArrivalTime(words[j], weights[j]), static_cast<int32_t>(begin + j)});
      }
    }
    bound = bound_of(leader->time);
  }
}

// The same for ids [begin, begin + count), `begin` a multiple of 64; weights[0] is that of `begin`.
void BlockRace(const float* weights, int64_t begin, int64_t count, const RaceDraw& draw,
               RaceLeader* leader) {
  int64_t i = 0;
  for (; i + kRaceIds <= count; i += kRaceIds) RaceIds(weights + i, begin + i, draw, leader);
  if (i == count) return;
  HWY_ALIGN float rest[kRaceIds] = {};
  std::memcpy(rest, weights + i, (count - i) * sizeof(float));
  RaceIds(rest, begin + i, draw, leader);
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBAD_KERNELS_CPU_TOKEN_RACE_INL_H_
