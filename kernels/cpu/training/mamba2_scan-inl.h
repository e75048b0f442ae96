// What the Mamba-2 scan of training runs forward, and again in its backward pass. Included once a
// target by files that use Highway's foreach_target.

#if defined(MAMBAD_KERNELS_CPU_TRAINING_MAMBA2_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MAMBAD_KERNELS_CPU_TRAINING_MAMBA2_SCAN_INL_H_
#undef MAMBAD_KERNELS_CPU_TRAINING_MAMBA2_SCAN_INL_H_
#else
#define MAMBAD_KERNELS_CPU_TRAINING_MAMBA2_SCAN_INL_H_
#endif

#include <algorithm>

#include "hwy/highway.h"
#include "kernels/cpu/training/layout.h"
#include "kernels/cpu/training/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace {
using cpu::Checkpoint;
using cpu::Mamba2Memory;
using cpu::Mamba2Partial;
using cpu::Mamba2Plan;
using cpu::Mamba2Scratch;
using cpu::RowOf;

constexpr int kChunk = cpu::kMamba2Chunk;

// The part of a state that stays in registers over a chunk: rows (of P) times vectors (along N).
constexpr int kRows = 4;
template <typename T>
constexpr int kForwardVectors = kLanesOf<T> * sizeof(T) >= 64 ? 4 : 2;
template <typename T>
constexpr int kBackwardVectors = kLanesOf<T> * sizeof(T) >= 64 ? 2 : 1;

// One head of one sequence, and a chunk of its tokens.
template <typename T>
struct Mamba2Chunk {
  int64_t sequence = 0, head = 0, token = 0;
  int tokens = 0;
  T a = 0, skip = 0, dt_bias = 0;
  bool start[kChunk] = {};
  HWY_ALIGN T raw[kChunk];    // dt before softplus
  HWY_ALIGN T slope[kChunk];  // d dt / d raw: zero where dt is cut to a limit
  HWY_ALIGN T dt[kChunk];
  HWY_ALIGN T decay[kChunk];  // exp(dt A)
  const T* x[kChunk];
};

template <typename T>
void PrepareHead(const Mamba2Scan& problem, int64_t sequence, int64_t head, Mamba2Chunk<T>& chunk) {
  chunk.sequence = sequence;
  chunk.head = head;
  chunk.a = -std::exp(static_cast<const T*>(problem.a_log)[head]);
  chunk.skip = static_cast<const T*>(problem.skip)[head];
  chunk.dt_bias = static_cast<const T*>(problem.dt_bias)[head];
}

template <typename T>
void PrepareSteps(const Mamba2Scan& problem, Mamba2Chunk<T>& chunk) {
  const Lanes<T> d;
  const auto low = hn::Set(d, static_cast<T>(problem.dt_minimum)),
             high = hn::Set(d, static_cast<T>(problem.dt_maximum));
  const auto a = hn::Set(d, chunk.a * static_cast<T>(kLog2eDouble));
  for (int t = chunk.tokens; t < kChunk; ++t) chunk.raw[t] = 0;
  for (int t = 0; t < kChunk; t += kLanesOf<T>) {
    const auto raw = hn::Load(d, chunk.raw + t), free = TrainingSoftplus(raw);
    const auto within = hn::And(hn::Ge(free, low), hn::Le(free, high));
    const auto dt = hn::Min(hn::Max(free, low), high);
    hn::Store(hn::IfThenElseZero(within, Sigmoid(raw)), d, chunk.slope + t);
    hn::Store(dt, d, chunk.dt + t);
    hn::Store(Decay(hn::Mul(dt, a)), d, chunk.decay + t);
  }
}

template <typename T>
void PrepareChunk(const Mamba2Scan& problem, const Mamba2Plan& plan, int64_t token,
                  Mamba2Chunk<T>& chunk, Mamba2Scratch<T>& scratch) {
  const int64_t n = problem.state_size, p = problem.head_width;
  const int64_t group = chunk.head / plan.group_heads,
                source_group = group / (problem.groups / problem.source_groups),
                source_head = chunk.head / (problem.heads / problem.source_heads);
  chunk.token = token;
  chunk.tokens = static_cast<int>(std::min<int64_t>(kChunk, problem.batch.tokens - token));
  for (int t = 0; t < chunk.tokens; ++t) {
    const int64_t row = chunk.sequence * problem.batch.tokens + token + t;
    chunk.start[t] = cpu::BeginsDocument(problem.batch, chunk.sequence, token + t);
    chunk.raw[t] = RowOf<T>(problem.dt, row)[chunk.head] + chunk.dt_bias;
    chunk.x[t] = RowOf<T>(problem.x, row) + source_head * p;
    T *b = scratch.b + t * plan.columns, *c = scratch.c + t * plan.columns;
    CopyNumbers(RowOf<T>(problem.b, row) + source_group * n, n, b);
    CopyNumbers(RowOf<T>(problem.c, row) + group * n, n, c);
    std::fill(b + n, b + plan.columns, T{0});
    std::fill(c + n, c + plan.columns, T{0});
  }
  PrepareSteps(problem, chunk);
  const Lanes<T> d;
  for (int t = 0; t < chunk.tokens; ++t) {
    const auto dt = hn::Set(d, chunk.dt[t]);
    T* input = scratch.input + t * plan.width;
    int64_t i = 0;
    for (; i + kLanesOf<T> <= p; i += kLanesOf<T>) {
      hn::StoreU(hn::Mul(dt, hn::LoadU(d, chunk.x[t] + i)), d, input + i);
    }
    for (; i < p; ++i) input[i] = chunk.dt[t] * chunk.x[t][i];
  }
}

// Runs kRowCount rows and kVectors vectors of a state over a chunk. Writes it to `to` (if not null)
// at the end and to `kept` (if not null) after every token; adds to y (if not null).
template <int kRowCount, int kVectors, typename T>
HWY_INLINE void RunTile(const Mamba2Plan& plan, const Mamba2Chunk<T>& chunk,
                        const Mamba2Scratch<T>& scratch, int64_t row, int64_t column, const T* from,
                        T* to, T* kept, T* y) {
  const Lanes<T> d;
  constexpr int kStep = kLanesOf<T>;
  const int64_t at = row * plan.columns + column;
  Vector<T> s[kRowCount * kVectors];
  for (int r = 0; r < kRowCount; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      s[r * kVectors + v] = hn::LoadU(d, from + at + r * plan.columns + v * kStep);
    }
  }
  for (int t = 0; t < chunk.tokens; ++t) {
    if (chunk.start[t]) {
      for (auto& vector : s) vector = hn::Zero(d);
    }
    const auto decay = hn::Set(d, chunk.decay[t]);
    const T* b = scratch.b + t * plan.columns + column;
    const T* c = scratch.c + t * plan.columns + column;
    const T* input = scratch.input + t * plan.width + row;
    Vector<T> sums[kRowCount];
#pragma GCC unroll 4
    for (int r = 0; r < kRowCount; ++r) {
      const auto x = hn::Set(d, input[r]);
      auto sum = hn::Zero(d);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        auto& state = s[r * kVectors + v];
        state = hn::MulAdd(x, hn::Load(d, b + v * kStep), hn::Mul(decay, state));
        if (y != nullptr) sum = hn::MulAdd(state, hn::Load(d, c + v * kStep), sum);
        if (kept != nullptr) {
          hn::Store(state, d, kept + ((t * kRowCount + r) * kVectors + v) * kStep);
        }
      }
      sums[r] = sum;
    }
    if (y != nullptr) AddSums<kRowCount, T>(sums, y + t * plan.width + row);
  }
  if (to == nullptr) return;
  for (int r = 0; r < kRowCount; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      hn::StoreU(s[r * kVectors + v], d, to + at + r * plan.columns + v * kStep);
    }
  }
}

// Calls task.operator()<rows, vectors>(row, column) for every tile of a [P, N] state.
template <int kMostVectors, typename T, typename Task>
HWY_INLINE void EachTile(const Mamba2Plan& plan, int64_t rows, const Task& task) {
  for (int64_t row = 0; row < rows;) {
    const bool whole = rows - row >= kRows;
    for (int64_t column = 0; column < plan.columns;) {
      const bool wide = plan.columns - column >= kMostVectors * kLanesOf<T>;
      if (whole && wide) {
        task.template Run<kRows, kMostVectors>(row, column);
      } else if (whole) {
        task.template Run<kRows, 1>(row, column);
      } else if (wide) {
        task.template Run<1, kMostVectors>(row, column);
      } else {
        task.template Run<1, 1>(row, column);
      }
      column += (wide ? kMostVectors : 1) * kLanesOf<T>;
    }
    row += whole ? kRows : 1;
  }
}
}  // namespace
}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // MAMBAD_KERNELS_CPU_TRAINING_MAMBA2_SCAN_INL_H_
