// What the Mamba-1 scan of training runs forward, and again in its backward pass. Included once a
// target by files that use Highway's foreach_target.

#if defined(MAMBAD_KERNELS_CPU_TRAINING_SELECTIVE_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBAD_KERNELS_CPU_TRAINING_SELECTIVE_SCAN_INL_H_
#undef MAMBAD_KERNELS_CPU_TRAINING_SELECTIVE_SCAN_INL_H_
#else
#define MAMBAD_KERNELS_CPU_TRAINING_SELECTIVE_SCAN_INL_H_
#endif

#include <algorithm>

#include "hwy/highway.h"
#include "kernels/cpu/training/layout.h"
#include "kernels/cpu/training/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace {
using cpu::Checkpoint;
using cpu::RowOf;
using cpu::SelectiveMemory;
using cpu::SelectivePartial;
using cpu::SelectivePlan;
using cpu::SelectiveScratch;

constexpr int kBlock = cpu::kTrainingLanes;  // channels that run together
constexpr int kChunk = cpu::kSelectiveChunk;
constexpr int kForwardTile = 16;  // state numbers of a channel that run together

// Everything about sixteen channels (at the end of a part fewer) that does not depend on the token.
template <typename T>
struct SelectiveBlock {
  int64_t channel = 0, index = 0, group = 0, source_group = 0;
  int count = 0;
  const T* a = nullptr;  // [N, 16]
  HWY_ALIGN T dt_bias[kBlock] = {};
  HWY_ALIGN T skip[kBlock] = {};
};

// Rows of one chunk for one block. Lanes beyond the block's channels are zero.
template <typename T>
struct SelectiveChunk {
  int64_t token = 0;
  int tokens = 0;
  bool start[kChunk] = {};
  const T *b[kChunk], *c[kChunk];
  HWY_ALIGN T x[kChunk][kBlock] = {};
  HWY_ALIGN T z[kChunk][kBlock] = {};
  HWY_ALIGN T raw[kChunk][kBlock] = {};  // delta + dt_bias
  HWY_ALIGN T dt[kChunk][kBlock];
  HWY_ALIGN T input[kChunk][kBlock];  // dt x
  HWY_ALIGN T y[kChunk][kBlock];      // the sum over the state
};

template <typename T>
void PrepareBlock(const SelectiveScan& problem, const SelectivePlan& plan, int64_t part,
                  int64_t number, T* a, SelectiveBlock<T>& block) {
  const Lanes<T> d;
  const int64_t group = part / plan.parts_per_group,
                part_begin = part % plan.parts_per_group * plan.part_width;
  const int64_t begin = part_begin + number * kBlock,
                end = std::min(plan.group_width, part_begin + plan.part_width);
  block.channel = group * plan.group_width + begin;
  block.index = part * plan.blocks_per_part + number;
  block.group = group;
  block.source_group = group / (problem.groups / problem.source_groups);
  block.count = static_cast<int>(std::clamp<int64_t>(end - begin, 0, kBlock));
  if (block.count == 0) return;
  const int64_t n = problem.state_size;
  const T* a_log = static_cast<const T*>(problem.a_log) + block.channel * n;
  std::fill_n(a, plan.state, T{0});
  for (int i = 0; i < block.count; ++i) {
    for (int64_t k = 0; k < n; ++k) a[k * kBlock + i] = a_log[i * n + k];
  }
  for (int64_t i = 0; i < plan.state; i += kLanesOf<T>) {
    hn::Store(hn::Neg(TrainingExp(hn::Load(d, a + i))), d, a + i);
  }
  block.a = a;
  std::fill_n(block.dt_bias, kBlock, T{0});
  std::fill_n(block.skip, kBlock, T{0});
  std::copy_n(static_cast<const T*>(problem.dt_bias) + block.channel, block.count, block.dt_bias);
  std::copy_n(static_cast<const T*>(problem.skip) + block.channel, block.count, block.skip);
}

template <typename T>
void PrepareChunk(const SelectiveScan& problem, const SelectiveBlock<T>& block, int64_t sequence,
                  int64_t token, SelectiveChunk<T>& chunk) {
  const Lanes<T> d;
  const int64_t n = problem.state_size;
  chunk.token = token;
  chunk.tokens = static_cast<int>(std::min<int64_t>(kChunk, problem.batch.tokens - token));
  for (int t = 0; t < chunk.tokens; ++t) {
    const int64_t row = sequence * problem.batch.tokens + token + t;
    chunk.start[t] = cpu::BeginsDocument(problem.batch, sequence, token + t);
    chunk.b[t] = RowOf<T>(problem.b, row) + block.source_group * n;
    chunk.c[t] = RowOf<T>(problem.c, row) + block.group * n;
    CopyNumbers(RowOf<T>(problem.x, row) + block.channel, block.count, chunk.x[t]);
    CopyNumbers(RowOf<T>(problem.delta, row) + block.channel, block.count, chunk.raw[t]);
    if (problem.z.data != nullptr) {
      CopyNumbers(RowOf<T>(problem.z, row) + block.channel, block.count, chunk.z[t]);
    }
    for (int lane = 0; lane < kBlock; lane += kLanesOf<T>) {
      const auto raw = hn::Add(hn::Load(d, chunk.raw[t] + lane), hn::Load(d, block.dt_bias + lane));
      const auto dt = TrainingSoftplus(raw);
      hn::Store(raw, d, chunk.raw[t] + lane);
      hn::Store(dt, d, chunk.dt[t] + lane);
      hn::Store(hn::Mul(dt, hn::Load(d, chunk.x[t] + lane)), d, chunk.input[t] + lane);
      hn::Store(hn::Zero(d), d, chunk.y[t] + lane);
    }
  }
}

// Runs kN state numbers of a block over a chunk; s stays in registers. With kKeeps, the states
// after every token and the decays are kept for backward.
template <int kN, bool kKeeps, typename T>
HWY_INLINE void RunTile(const SelectiveBlock<T>& block, int64_t n, int64_t state_size, int lane,
                        const T* from, T* to, SelectiveChunk<T>& chunk,
                        const SelectiveScratch<T>& kept) {
  const Lanes<T> d;
  const auto log2e = hn::Set(d, static_cast<T>(kLog2eDouble));
  const T* a = block.a + n * kBlock + lane;
  const int64_t at = n * kBlock + lane;
  Vector<T> s[kN];
  for (int k = 0; k < kN; ++k) s[k] = hn::LoadU(d, from + at + k * kBlock);
  for (int t = 0; t < chunk.tokens; ++t) {
    if (chunk.start[t]) {
      for (int k = 0; k < kN; ++k) s[k] = hn::Zero(d);
    }
    const auto dt = hn::Mul(hn::Load(d, chunk.dt[t] + lane), log2e);
    const auto input = hn::Load(d, chunk.input[t] + lane);
    const T *b = chunk.b[t] + n, *c = chunk.c[t] + n;
    const int64_t place = t * state_size * kBlock + at;
    auto y = hn::Load(d, chunk.y[t] + lane);
#pragma GCC unroll 16
    for (int k = 0; k < kN; ++k) {
      const auto decay = Decay(hn::Mul(dt, hn::Load(d, a + k * kBlock)));
      s[k] = hn::MulAdd(decay, s[k], hn::Mul(input, hn::Set(d, b[k])));
      y = hn::MulAdd(s[k], hn::Set(d, c[k]), y);
      if constexpr (kKeeps) {
        hn::Store(decay, d, kept.decays + place + k * kBlock);
        hn::Store(s[k], d, kept.states + place + k * kBlock);
      }
    }
    hn::Store(y, d, chunk.y[t] + lane);
  }
  if (to == nullptr) return;
  for (int k = 0; k < kN; ++k) hn::Store(s[k], d, to + at + k * kBlock);
}

// Runs a whole state over a chunk.
template <bool kKeeps, typename T>
void RunChunk(const SelectiveBlock<T>& block, int64_t state_size, const T* from, T* to,
              SelectiveChunk<T>& chunk, const SelectiveScratch<T>& kept) {
  for (int64_t n = 0; n < state_size;) {
    const int64_t left = state_size - n;
    const int tile = left >= kForwardTile ? kForwardTile : left >= 4 ? 4 : 1;
    for (int lane = 0; lane < kBlock; lane += kLanesOf<T>) {
      if (tile == kForwardTile) {
        RunTile<kForwardTile, kKeeps>(block, n, state_size, lane, from, to, chunk, kept);
      } else if (tile == 4) {
        RunTile<4, kKeeps>(block, n, state_size, lane, from, to, chunk, kept);
      } else {
        RunTile<1, kKeeps>(block, n, state_size, lane, from, to, chunk, kept);
      }
    }
    n += tile;
  }
}
}  // namespace
}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBAD_KERNELS_CPU_TRAINING_SELECTIVE_SCAN_INL_H_
