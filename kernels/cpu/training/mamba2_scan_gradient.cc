#include <algorithm>

#include "kernels/cpu/training/layout.h"
#include "kernels/cpu/training/scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/training/mamba2_scan_gradient.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/training/mamba2_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace {
// One tile of a chunk, backwards: b and c are the part's gradients for the chunk's rows,
// [tokens, N padded]; through_a[t] adds up dS_t S_{t-1}, lane by lane.
template <typename T>
struct BackwardTiles {
  const Mamba2Plan& plan;
  const Mamba2Chunk<T>& chunk;
  const Mamba2Scratch<T>& scratch;
  const T* before;  // the state before the chunk
  T *b_gradient, *c_gradient;
  T (*through_a)[cpu::kTrainingLanes];

  template <int kRowCount, int kVectors>
  void Run(int64_t row, int64_t column) const {
    const Lanes<T> d;
    constexpr int kStep = kLanesOf<T>, kTile = kRowCount * kVectors;
    RunTile<kRowCount, kVectors, T>(plan, chunk, scratch, row, column, before, nullptr,
                                    scratch.states, nullptr);
    Vector<T> carry[kTile], first[kTile];
    for (int r = 0; r < kRowCount; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        const int64_t at = (row + r) * plan.columns + column + v * kStep;
        carry[r * kVectors + v] = hn::LoadU(d, scratch.state + at);
        first[r * kVectors + v] = hn::LoadU(d, before + at);
      }
    }
    HWY_ALIGN T staged[kTile * kStep];
    for (int i = 0; i < kTile; ++i) hn::Store(first[i], d, staged + i * kStep);
    for (int t = chunk.tokens - 1; t >= 0; --t) {
      const T* states = scratch.states + t * kTile * kStep;
      Step<kRowCount, kVectors>(t, row, column, states, t == 0 ? staged : states - kTile * kStep,
                                carry);
    }
    for (int r = 0; r < kRowCount; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        hn::StoreU(carry[r * kVectors + v], d,
                   scratch.state + (row + r) * plan.columns + column + v * kStep);
      }
    }
  }

  // One token: carry is the gradient that later tokens send to S_t, then that which S_{t-1} gets.
  template <int kRowCount, int kVectors>
  HWY_INLINE void Step(int t, int64_t row, int64_t column, const T* states, const T* previous,
                       Vector<T>* carry) const {
    const Lanes<T> d;
    constexpr int kStep = kLanesOf<T>;
    const int64_t place = t * plan.columns + column;
    const T *b = scratch.b + place, *c = scratch.c + place;
    const T* g = scratch.y + t * plan.width + row;
    const T* input = scratch.input + t * plan.width + row;
    // At a document's first token there is no state before: nothing flows on.
    const bool start = chunk.start[t];
    const auto decay = hn::Set(d, chunk.decay[t]);
    auto dot = hn::Load(d, through_a[t]);
    Vector<T> for_b[kVectors], for_c[kVectors], through_b[kRowCount];
    for (int v = 0; v < kVectors; ++v) {
      for_b[v] = hn::LoadU(d, b_gradient + place + v * kStep);
      for_c[v] = hn::LoadU(d, c_gradient + place + v * kStep);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRowCount; ++r) {
      const auto gradient = hn::Set(d, g[r]), x = hn::Set(d, input[r]);
      through_b[r] = hn::Zero(d);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const int i = r * kVectors + v;
        const auto ds = hn::MulAdd(gradient, hn::Load(d, c + v * kStep), carry[i]);
        for_c[v] = hn::MulAdd(gradient, hn::Load(d, states + i * kStep), for_c[v]);
        for_b[v] = hn::MulAdd(x, ds, for_b[v]);
        through_b[r] = hn::MulAdd(ds, hn::Load(d, b + v * kStep), through_b[r]);
        if (!start) dot = hn::MulAdd(ds, hn::Load(d, previous + i * kStep), dot);
        carry[i] = hn::Mul(decay, ds);
      }
    }
    if (start) {
      for (int i = 0; i < kRowCount * kVectors; ++i) carry[i] = hn::Zero(d);
    }
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(for_b[v], d, b_gradient + place + v * kStep);
      hn::StoreU(for_c[v], d, c_gradient + place + v * kStep);
    }
    hn::Store(dot, d, through_a[t]);
    AddSums<kRowCount, T>(through_b, scratch.through_b + t * plan.width + row);
  }
};

// The gradients of a head's three parameters.
template <typename T>
struct HeadGradient {
  T a = 0, skip = 0, dt_bias = 0;
};

// dx = dt through_b + D g, ddt = x through_b + A abar through_a; the rest of the chain from there.
template <typename T>
void FinishBackward(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient,
                    const Mamba2Plan& plan, const Mamba2Chunk<T>& chunk,
                    const Mamba2Scratch<T>& scratch, const T (*through_a)[cpu::kTrainingLanes],
                    T* x_gradient, int64_t x_stride, HeadGradient<T>& head) {
  const Lanes<T> d;
  const int64_t p = problem.head_width;
  for (int t = chunk.tokens - 1; t >= 0; --t) {
    const T *through_b = scratch.through_b + t * plan.width, *g = scratch.y + t * plan.width;
    const T through_x = Dot(chunk.x[t], through_b, p);
    head.skip += Dot(chunk.x[t], g, p);
    const T through_decay =
        chunk.decay[t] * hn::GetLane(hn::SumOfLanes(d, hn::Load(d, through_a[t])));
    head.a += chunk.dt[t] * through_decay;
    const T raw_gradient = (through_x + chunk.a * through_decay) * chunk.slope[t];
    head.dt_bias += raw_gradient;
    const int64_t row = chunk.sequence * problem.batch.tokens + chunk.token + t;
    RowOf<T>(gradient.dt, row)[chunk.head] = raw_gradient;
    AddProducts(chunk.dt[t], through_b, chunk.skip, g, p, x_gradient + t * x_stride);
  }
}

// One head of a sequence, last chunk first. b and c: its part's gradients, [tokens, N padded].
template <typename T>
HeadGradient<T> HeadBackward(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient,
                             const Mamba2Plan& plan, const T* checkpoints,
                             Mamba2Scratch<T>& scratch, Mamba2Chunk<T>& chunk, T* b, T* c,
                             T* x_partial) {
  const Lanes<T> d;
  const int64_t p = problem.head_width, tokens = problem.batch.tokens;
  HWY_ALIGN T through_a[kChunk][cpu::kTrainingLanes];
  HeadGradient<T> head;
  std::fill_n(scratch.state, plan.state, T{0});
  for (int64_t i = plan.chunks - 1; i >= 0; --i) {
    PrepareChunk(problem, plan, i * kChunk, chunk, scratch);
    const int64_t first = chunk.sequence * tokens + chunk.token;
    for (int t = 0; t < chunk.tokens; ++t) {
      CopyNumbers(RowOf<T>(gradient.y, first + t) + chunk.head * p, p, scratch.y + t * plan.width);
      hn::Store(hn::Zero(d), d, through_a[t]);
    }
    std::fill_n(scratch.through_b, chunk.tokens * plan.width, T{0});
    const T* before = Checkpoint(plan, checkpoints, chunk.sequence, chunk.head, i);
    EachTile<kBackwardVectors<T>, T>(
        plan, p,
        BackwardTiles<T>{plan, chunk, scratch, before, b + chunk.token * plan.columns,
                         c + chunk.token * plan.columns, through_a});
    T* x = x_partial == nullptr ? RowOf<T>(gradient.x, first) + chunk.head * p
                                : x_partial + chunk.token * p;
    FinishBackward(problem, gradient, plan, chunk, scratch, through_a, x,
                   x_partial == nullptr ? gradient.x.stride : p, head);
  }
  head.a *= chunk.a;
  return head;
}

// The heads of one part of one sequence; `slot` is the sequence's place between the barriers.
template <typename T>
void PartBackward(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient,
                  const Mamba2Plan& plan, const Mamba2Partial<T>& partial, const T* checkpoints,
                  int64_t sequence, int64_t slot, int64_t part, Mamba2Scratch<T>& scratch) {
  const int64_t tokens = problem.batch.tokens, heads = problem.heads;
  const int64_t numbers = tokens * plan.columns, item = slot * plan.parts + part;
  T *b = partial.b + item * numbers, *c = partial.c + item * numbers;
  std::fill_n(b, numbers, T{0});
  std::fill_n(c, numbers, T{0});
  const int64_t group = part / plan.parts_per_group,
                begin = part % plan.parts_per_group * plan.part_heads,
                end = std::min(begin + plan.part_heads, plan.group_heads);
  Mamba2Chunk<T> chunk;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t head = group * plan.group_heads + i;
    PrepareHead(problem, sequence, head, chunk);
    T* x = problem.source_heads == heads
               ? nullptr
               : partial.x + (slot * heads + head) * tokens * problem.head_width;
    const HeadGradient<T> result =
        HeadBackward(problem, gradient, plan, checkpoints, scratch, chunk, b, c, x);
    T* parameters = partial.parameters + slot * 3 * heads + head;
    parameters[0] = result.a;
    parameters[heads] = result.skip;
    parameters[2 * heads] = result.dt_bias;
  }
}

// Adds the parts of `count` sequences from `first` on: rows of dB, dC and shared dx, then the
// parameters' gradients.
template <typename T>
void Gather(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient, const Mamba2Plan& plan,
            const Mamba2Partial<T>& partial, int64_t first, int64_t count, ThreadPool& pool) {
  const int64_t tokens = problem.batch.tokens, n = problem.state_size, p = problem.head_width;
  const int64_t numbers = tokens * plan.columns;  // of a part
  const int64_t source_parts = plan.parts / problem.source_groups,
                repeats = problem.heads / problem.source_heads;
  pool.Split(count * tokens, 1, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = first * tokens + i, slot = i / tokens, t = i % tokens;
      const int64_t place = slot * plan.parts * numbers + t * plan.columns;
      SumGroups(partial.b + place, numbers, source_parts, problem.source_groups, n,
                RowOf<T>(gradient.b, row));
      SumGroups(partial.c + place, numbers, plan.parts_per_group, problem.groups, n,
                RowOf<T>(gradient.c, row));
      if (repeats == 1) continue;
      SumGroups(partial.x + (slot * problem.heads * tokens + t) * p, tokens * p, repeats,
                problem.source_heads, p, RowOf<T>(gradient.x, row));
    }
  });
  for (int64_t slot = 0; slot < count; ++slot) {
    const bool fresh = first + slot == 0;
    const T* parameters = partial.parameters + slot * 3 * problem.heads;
    AddOrSet(parameters, problem.heads, fresh, gradient.a_log);
    AddOrSet(parameters + problem.heads, problem.heads, fresh, gradient.skip);
    AddOrSet(parameters + 2 * problem.heads, problem.heads, fresh, gradient.dt_bias);
  }
}

template <typename T>
void Mamba2Backward(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient,
                    const void* checkpoints, void* workspace, ThreadPool& pool) {
  const Mamba2Plan plan(problem);
  cpu::RunParts<Mamba2Memory<T>>(
      problem, plan, workspace, pool,
      [&](const Mamba2Partial<T>& partial, int64_t sequence, int64_t slot, int64_t part,
          Mamba2Scratch<T>& scratch) {
        PartBackward(problem, gradient, plan, partial, static_cast<const T*>(checkpoints), sequence,
                     slot, part, scratch);
      },
      [&](const Mamba2Partial<T>& partial, int64_t first, int64_t count) {
        Gather(problem, gradient, plan, partial, first, count, pool);
      });
}
}  // namespace

// What Highway dispatches to; a name of this file alone.
void RunMamba2Backward(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient,
                       const void* checkpoints, void* scratch, ThreadPool& pool) {
  const auto run =
      problem.batch.type == TrainingType::kFloat64 ? Mamba2Backward<double> : Mamba2Backward<float>;
  run(problem, gradient, checkpoints, scratch, pool);
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(RunMamba2Backward);

namespace cpu {

const char* Mamba2ScanBackward(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient,
                               const void* checkpoints, void* scratch, ThreadPool& pool) {
  if (const char* wrong = CheckGradient(problem, gradient)) return wrong;
  if (checkpoints == nullptr || scratch == nullptr) {
    return "Mamba-2 scan: checkpoints or scratch absent";
  }
  if (!HasType(problem.batch)) return "Mamba-2 scan: the CPU has float and double only";
  HWY_DYNAMIC_DISPATCH(RunMamba2Backward)(problem, gradient, checkpoints, scratch, pool);
  return nullptr;
}

}  // namespace cpu
}  // namespace mambad::kernels
#endif  // HWY_ONCE
