#include <algorithm>

#include "kernels/cpu/training/layout.h"
#include "kernels/cpu/training/scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/training/selective_scan_gradient.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/training/selective_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace {
// State numbers of a channel that run together: each keeps two vectors.
template <typename T>
constexpr int kBackwardTile = kLanesOf<T> >= 16 ? 8 : 4;

// What only backward needs of a chunk.
template <typename T>
struct SelectiveChunkGradient {
  HWY_ALIGN T y[kChunk][kBlock] = {};     // as given
  HWY_ALIGN T g[kChunk][kBlock];          // d loss / d (sum + D x)
  HWY_ALIGN T through_b[kChunk][kBlock];  // sum over n of ds B
  HWY_ALIGN T through_a[kChunk][kBlock];  // sum over n of ds A abar s_{t-1}
};

// g = dy SiLU(z), dz, and the chunk's share of dD.
template <typename T>
void BeginBackward(const SelectiveScan& problem, const SelectiveScanGradient& gradient,
                   const SelectiveBlock<T>& block, int64_t sequence, const SelectiveChunk<T>& chunk,
                   SelectiveChunkGradient<T>& back) {
  const Lanes<T> d;
  HWY_ALIGN T z_gradient[kBlock];
  for (int t = 0; t < chunk.tokens; ++t) {
    const int64_t row = sequence * problem.batch.tokens + chunk.token + t;
    CopyNumbers(RowOf<T>(gradient.y, row) + block.channel, block.count, back.y[t]);
    for (int lane = 0; lane < kBlock; lane += kLanesOf<T>) {
      auto g = hn::Load(d, back.y[t] + lane);
      if (problem.z.data != nullptr) {
        const auto y = hn::MulAdd(hn::Load(d, block.skip + lane), hn::Load(d, chunk.x[t] + lane),
                                  hn::Load(d, chunk.y[t] + lane));
        const auto z = hn::Load(d, chunk.z[t] + lane), sigmoid = Sigmoid(z);
        hn::Store(hn::Mul(hn::Mul(g, y), SiluSlope<T>(z, sigmoid)), d, z_gradient + lane);
        g = hn::Mul(g, hn::Mul(z, sigmoid));
      }
      hn::Store(g, d, back.g[t] + lane);
      hn::Store(hn::Zero(d), d, back.through_b[t] + lane);
      hn::Store(hn::Zero(d), d, back.through_a[t] + lane);
    }
    if (problem.z.data != nullptr) {
      CopyNumbers(z_gradient, block.count, RowOf<T>(gradient.z, row) + block.channel);
    }
  }
}

// kN state numbers of a chunk, backwards. `before` is the state before the chunk; b and c are the
// part's gradients of B and C for the chunk's rows.
template <int kN, typename T>
HWY_INLINE void RunTileBack(const SelectiveBlock<T>& block, int64_t n, int64_t state_size, int lane,
                            const T* before, const SelectiveChunk<T>& chunk,
                            const SelectiveScratch<T>& scratch, SelectiveChunkGradient<T>& back,
                            T* b_gradient, T* c_gradient) {
  const Lanes<T> d;
  constexpr int kGroup = kN % 4 == 0 ? 4 : 1;
  const int64_t at = n * kBlock + lane;
  const T* a = block.a + at;
  Vector<T> carry[kN], a_gradient[kN];
  for (int k = 0; k < kN; ++k) {
    carry[k] = hn::Load(d, scratch.state + at + k * kBlock);
    a_gradient[k] = hn::Load(d, scratch.a_gradient + at + k * kBlock);
  }
  for (int t = chunk.tokens - 1; t >= 0; --t) {
    const T *b = chunk.b[t] + n, *c = chunk.c[t] + n;
    const T* states = scratch.states + t * state_size * kBlock + at;
    const T* decays = scratch.decays + t * state_size * kBlock + at;
    const T* previous = t == 0 ? before + at : states - state_size * kBlock;
    const auto g = hn::Load(d, back.g[t] + lane), dt = hn::Load(d, chunk.dt[t] + lane),
               input = hn::Load(d, chunk.input[t] + lane);
    auto through_b = hn::Load(d, back.through_b[t] + lane),
         through_a = hn::Load(d, back.through_a[t] + lane);
    const bool start = chunk.start[t];
#pragma GCC unroll 8
    for (int k = 0; k < kN; k += kGroup) {
      Vector<T> for_b[kGroup], for_c[kGroup];
#pragma GCC unroll 4
      for (int i = 0; i < kGroup; ++i) {
        const int64_t place = (k + i) * kBlock;
        const auto ds = hn::MulAdd(hn::Set(d, c[k + i]), g, carry[k + i]);
        for_c[i] = hn::Mul(g, hn::Load(d, states + place));
        for_b[i] = hn::Mul(ds, input);
        through_b = hn::MulAdd(ds, hn::Set(d, b[k + i]), through_b);
        carry[k + i] = hn::Mul(hn::Load(d, decays + place), ds);
        // At a document's first token there is no state before: nothing flows on.
        if (start) carry[k + i] = hn::Zero(d);
        const auto through =
            start ? hn::Zero(d) : hn::Mul(carry[k + i], hn::LoadU(d, previous + place));
        through_a = hn::MulAdd(through, hn::Load(d, a + place), through_a);
        a_gradient[k + i] = hn::MulAdd(through, dt, a_gradient[k + i]);
      }
      AddSums<kGroup, T>(for_b, b_gradient + t * state_size + n + k);
      AddSums<kGroup, T>(for_c, c_gradient + t * state_size + n + k);
    }
    hn::Store(through_b, d, back.through_b[t] + lane);
    hn::Store(through_a, d, back.through_a[t] + lane);
  }
  for (int k = 0; k < kN; ++k) {
    hn::Store(carry[k], d, scratch.state + at + k * kBlock);
    hn::Store(a_gradient[k], d, scratch.a_gradient + at + k * kBlock);
  }
}

template <typename T>
void RunChunkBack(const SelectiveBlock<T>& block, int64_t state_size, const T* before,
                  const SelectiveChunk<T>& chunk, const SelectiveScratch<T>& scratch,
                  SelectiveChunkGradient<T>& back, T* b_gradient, T* c_gradient) {
  constexpr int kTile = kBackwardTile<T>;
  for (int64_t n = 0; n < state_size;) {
    const int64_t left = state_size - n;
    const int tile = left >= kTile ? kTile : left >= 4 ? 4 : 1;
    for (int lane = 0; lane < kBlock; lane += kLanesOf<T>) {
      if (tile == kTile) {
        RunTileBack<kTile>(block, n, state_size, lane, before, chunk, scratch, back, b_gradient,
                           c_gradient);
      } else if (tile == 4) {
        RunTileBack<4>(block, n, state_size, lane, before, chunk, scratch, back, b_gradient,
                       c_gradient);
      } else {
        RunTileBack<1>(block, n, state_size, lane, before, chunk, scratch, back, b_gradient,
                       c_gradient);
      }
    }
    n += tile;
  }
}

// dx = D g + dt through_b, ddelta = (x through_b + through_a) sigmoid(raw); adds to dD and db.
template <typename T>
void FinishBackward(const SelectiveScan& problem, const SelectiveScanGradient& gradient,
                    const SelectiveBlock<T>& block, int64_t sequence,
                    const SelectiveChunk<T>& chunk, const SelectiveChunkGradient<T>& back, T* skip,
                    T* dt_bias) {
  const Lanes<T> d;
  HWY_ALIGN T x_gradient[kBlock], delta_gradient[kBlock];
  for (int t = chunk.tokens - 1; t >= 0; --t) {
    for (int lane = 0; lane < kBlock; lane += kLanesOf<T>) {
      const auto x = hn::Load(d, chunk.x[t] + lane), g = hn::Load(d, back.g[t] + lane),
                 through_b = hn::Load(d, back.through_b[t] + lane);
      const auto dt_gradient = hn::MulAdd(x, through_b, hn::Load(d, back.through_a[t] + lane));
      const auto delta = hn::Mul(dt_gradient, Sigmoid(hn::Load(d, chunk.raw[t] + lane)));
      hn::Store(hn::MulAdd(hn::Load(d, chunk.dt[t] + lane), through_b,
                           hn::Mul(hn::Load(d, block.skip + lane), g)),
                d, x_gradient + lane);
      hn::Store(delta, d, delta_gradient + lane);
      hn::Store(hn::MulAdd(x, g, hn::Load(d, skip + lane)), d, skip + lane);
      hn::Store(hn::Add(delta, hn::Load(d, dt_bias + lane)), d, dt_bias + lane);
    }
    const int64_t row = sequence * problem.batch.tokens + chunk.token + t;
    CopyNumbers(x_gradient, block.count, RowOf<T>(gradient.x, row) + block.channel);
    CopyNumbers(delta_gradient, block.count, RowOf<T>(gradient.delta, row) + block.channel);
  }
}

// One block of a sequence, last chunk first. b and c: the part's gradients, [tokens, N].
template <typename T>
void BlockBackward(const SelectiveScan& problem, const SelectiveScanGradient& gradient,
                   const SelectivePlan& plan, const SelectiveBlock<T>& block, int64_t sequence,
                   const T* checkpoints, SelectiveScratch<T>& scratch,
                   const SelectivePartial<T>& partial, int64_t slot, T* b, T* c) {
  const int64_t n = problem.state_size;
  HWY_ALIGN T skip[kBlock] = {}, dt_bias[kBlock] = {};
  SelectiveChunk<T> chunk;
  SelectiveChunkGradient<T> back;
  std::fill_n(scratch.state, plan.state, T{0});
  std::fill_n(scratch.a_gradient, plan.state, T{0});
  for (int64_t i = plan.chunks - 1; i >= 0; --i) {
    const T* before = Checkpoint(plan, checkpoints, sequence, block.index, i);
    PrepareChunk(problem, block, sequence, i * kChunk, chunk);
    RunChunk<true, T>(block, n, before, nullptr, chunk, scratch);
    BeginBackward(problem, gradient, block, sequence, chunk, back);
    RunChunkBack<T>(block, n, before, chunk, scratch, back, b + chunk.token * n,
                    c + chunk.token * n);
    FinishBackward(problem, gradient, block, sequence, chunk, back, skip, dt_bias);
  }
  const int64_t channel = slot * problem.channels + block.channel;
  std::copy_n(skip, block.count, partial.skip + channel);
  std::copy_n(dt_bias, block.count, partial.dt_bias + channel);
  for (int i = 0; i < block.count; ++i) {
    for (int64_t k = 0; k < n; ++k) {
      partial.a_log[(channel + i) * n + k] =
          block.a[k * kBlock + i] * scratch.a_gradient[k * kBlock + i];
    }
  }
}

// The blocks of one part of one sequence; `slot` is the sequence's place between the barriers.
template <typename T>
void PartBackward(const SelectiveScan& problem, const SelectiveScanGradient& gradient,
                  const SelectivePlan& plan, const SelectivePartial<T>& partial,
                  const T* checkpoints, int64_t sequence, int64_t slot, int64_t part,
                  SelectiveScratch<T>& scratch) {
  const int64_t numbers = problem.batch.tokens * problem.state_size;
  const int64_t item = slot * plan.parts + part;
  T *b = partial.b + item * numbers, *c = partial.c + item * numbers;
  std::fill_n(b, numbers, T{0});
  std::fill_n(c, numbers, T{0});
  SelectiveBlock<T> block;
  for (int64_t i = 0; i < plan.blocks_per_part; ++i) {
    PrepareBlock(problem, plan, part, i, scratch.a, block);
    if (block.count == 0) continue;
    BlockBackward(problem, gradient, plan, block, sequence, checkpoints, scratch, partial, slot, b,
                  c);
  }
}

// Adds the parts of `count` sequences from `first` on: rows of dB and dC, then the parameters'
// gradients.
template <typename T>
void Gather(const SelectiveScan& problem, const SelectiveScanGradient& gradient,
            const SelectivePlan& plan, const SelectivePartial<T>& partial, int64_t first,
            int64_t count, ThreadPool& pool) {
  const int64_t tokens = problem.batch.tokens, n = problem.state_size, inner = problem.channels;
  const int64_t source_parts = plan.parts / problem.source_groups;
  pool.Split(count * tokens, 1, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = first * tokens + i;
      const int64_t place = (i / tokens * plan.parts * tokens + i % tokens) * n;
      SumGroups(partial.b + place, tokens * n, source_parts, problem.source_groups, n,
                RowOf<T>(gradient.b, row));
      SumGroups(partial.c + place, tokens * n, plan.parts_per_group, problem.groups, n,
                RowOf<T>(gradient.c, row));
    }
  });
  for (int64_t slot = 0; slot < count; ++slot) {
    const bool fresh = first + slot == 0;
    AddOrSet(partial.a_log + slot * inner * n, inner * n, fresh, gradient.a_log);
    AddOrSet(partial.skip + slot * inner, inner, fresh, gradient.skip);
    AddOrSet(partial.dt_bias + slot * inner, inner, fresh, gradient.dt_bias);
  }
}

template <typename T>
void SelectiveBackward(const SelectiveScan& problem, const SelectiveScanGradient& gradient,
                       const void* checkpoints, void* workspace, ThreadPool& pool) {
  const SelectivePlan plan(problem);
  cpu::RunParts<SelectiveMemory<T>>(
      problem, plan, workspace, pool,
      [&](const SelectivePartial<T>& partial, int64_t sequence, int64_t slot, int64_t part,
          SelectiveScratch<T>& scratch) {
        PartBackward(problem, gradient, plan, partial, static_cast<const T*>(checkpoints), sequence,
                     slot, part, scratch);
      },
      [&](const SelectivePartial<T>& partial, int64_t first, int64_t count) {
        Gather(problem, gradient, plan, partial, first, count, pool);
      });
}
}  // namespace

// What Highway dispatches to; a name of this file alone.
void RunSelectiveBackward(const SelectiveScan& problem, const SelectiveScanGradient& gradient,
                          const void* checkpoints, void* scratch, ThreadPool& pool) {
  const auto run = problem.batch.type == TrainingType::kFloat64 ? SelectiveBackward<double>
                                                                : SelectiveBackward<float>;
  run(problem, gradient, checkpoints, scratch, pool);
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(RunSelectiveBackward);

namespace cpu {

const char* SelectiveScanBackward(const SelectiveScan& problem,
                                  const SelectiveScanGradient& gradient, const void* checkpoints,
                                  void* scratch, ThreadPool& pool) {
  if (const char* wrong = CheckGradient(problem, gradient)) return wrong;
  if (checkpoints == nullptr || scratch == nullptr) {
    return "selective scan: checkpoints or scratch absent";
  }
  if (!HasType(problem.batch)) return "selective scan: the CPU has float and double only";
  HWY_DYNAMIC_DISPATCH(RunSelectiveBackward)(problem, gradient, checkpoints, scratch, pool);
  return nullptr;
}

}  // namespace cpu
}  // namespace mambad::kernels
#endif  // HWY_ONCE
