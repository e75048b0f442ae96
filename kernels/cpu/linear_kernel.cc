#include "kernels/cpu/linear_kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_kernel.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, kPanelRows>;
using V = hn::Vec<D>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
constexpr int kVectors = kPanelRows / kLanes;  // of a panel
constexpr int kRegisters = HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64 ? 32 : 16;

// Whether R rows by P panels run from registers alone: accumulators, one step's weights, a
// broadcast, and for bf16 a mask and room to move. A single row keeps its broadcasts instead and
// takes each weight as it comes.
template <bool kBfloat16>
constexpr bool Fits(int rows, int panels) {
  const int vectors = panels * kVectors;
  if (rows == 1) return vectors + 4 <= kRegisters;
  return (rows + 1) * vectors + (kBfloat16 ? 3 : 1) <= kRegisters;
}

template <bool kBfloat16>
constexpr int PanelsFor(int rows) {
  for (int panels = kGroupPanels; panels > 1; --panels) {
    if (Fits<kBfloat16>(rows, panels)) return panels;
  }
  return 1;
}

template <bool kBfloat16>
constexpr int MaxRows() {
  int rows = kMaxRegisterRows;
  while (rows > 1 && !Fits<kBfloat16>(rows, PanelsFor<kBfloat16>(rows))) --rows;
  return rows;
}

// One column of a step: kEven and kOdd of a pair of bf16, or the float.
enum class Part { kEven, kOdd, kFloat };

template <Part kPart>
HWY_INLINE V Weights(const char* at) {
  const D d;
  if constexpr (kPart == Part::kFloat) {
    return hn::LoadU(d, reinterpret_cast<const float*>(at));
  } else {
    const hn::Repartition<uint32_t, D> words;
    const auto pair = hn::LoadU(words, reinterpret_cast<const uint32_t*>(at));
    if constexpr (kPart == Part::kEven) return hn::BitCast(d, hn::ShiftLeft<16>(pair));
    return hn::BitCast(d, hn::And(pair, hn::Set(words, 0xffff0000u)));
  }
}

template <Part kPart, int R, int N>
HWY_INLINE void Accumulate(const char* weights, const float* x, int64_t x_stride, V (&sums)[R][N]) {
  const D d;
  if constexpr (R == 1) {
    const V value = hn::Set(d, x[0]);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      sums[0][i] = hn::MulAdd(Weights<kPart>(weights + i * kLanes * 4), value, sums[0][i]);
    }
  } else {
    V w[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) w[i] = Weights<kPart>(weights + i * kLanes * 4);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V value = hn::Set(d, x[r * x_stride]);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) sums[r][i] = hn::MulAdd(w[i], value, sums[r][i]);
    }
  }
}

template <int R, int P, bool kBfloat16>
void Block(const LinearBlock& block) {
  constexpr int N = P * kVectors;
  const D d;
  V sums[R][N];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      sums[r][i] =
          block.first ? hn::Zero(d) : hn::LoadU(d, block.parked + r * kGroupRows + i * kLanes);
    }
  }
  const char* weights = block.weights;
  const float* x = static_cast<const float*>(block.x);
  const int64_t weight_stride = block.weight_stride, x_stride = block.x_stride,
                prefetch_stride = block.prefetch_stride;
  const char* prefetch = block.prefetch;
  for (int64_t step = block.steps; step > 0; --step) {
#pragma GCC unroll 4
    for (int i = 0; i < P; ++i)
      __builtin_prefetch(prefetch + i * kStepBytes, 0, 2);  // into the second cache
    if constexpr (kBfloat16) {
      Accumulate<Part::kEven>(weights, x, x_stride, sums);
      Accumulate<Part::kOdd>(weights, x + 1, x_stride, sums);
      x += 2;
    } else {
      Accumulate<Part::kFloat>(weights, x, x_stride, sums);
      x += 1;
    }
    weights += weight_stride;
    prefetch += prefetch_stride;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      if (!block.last) {
        hn::StoreU(sums[r][i], d, block.parked + r * kGroupRows + i * kLanes);
        continue;
      }
      float* y = block.y + r * block.y_stride + i * kLanes;
      const int64_t left = block.outputs - i * kLanes;
      if (left >= kLanes) {
        hn::StoreU(block.add ? hn::Add(hn::LoadU(d, y), sums[r][i]) : sums[r][i], d, y);
      } else if (left > 0) {
        HWY_ALIGN float tail[kLanes];
        hn::Store(sums[r][i], d, tail);
        for (int64_t j = 0; j < left; ++j) y[j] = block.add ? y[j] + tail[j] : tail[j];
      }
    }
  }
}

template <int R, bool kBfloat16>
void AddRows(LinearBlocks* blocks) {
  if constexpr (R <= MaxRows<kBfloat16>()) {
    constexpr int kPanels = PanelsFor<kBfloat16>(R);
    blocks->panels[R] = kPanels;
    blocks->function[R][1] = Block<R, 1, kBfloat16>;
    if constexpr (kPanels >= 2) blocks->function[R][2] = Block<R, 2, kBfloat16>;
    if constexpr (kPanels >= 3) blocks->function[R][3] = Block<R, 3, kBfloat16>;
    if constexpr (kPanels >= 4) blocks->function[R][4] = Block<R, 4, kBfloat16>;
  }
}

template <bool kBfloat16>
const LinearBlocks* Blocks() {
  static const LinearBlocks blocks = [] {
    LinearBlocks table;
    table.max_rows = MaxRows<kBfloat16>();
    AddRows<1, kBfloat16>(&table);
    AddRows<2, kBfloat16>(&table);
    AddRows<3, kBfloat16>(&table);
    AddRows<4, kBfloat16>(&table);
    AddRows<5, kBfloat16>(&table);
    AddRows<6, kBfloat16>(&table);
    return table;
  }();
  return &blocks;
}

}  // namespace

LinearKernels Kernels() {
  LinearKernels kernels;
  kernels.float32 = Blocks<false>();
  kernels.bfloat16 = Blocks<true>();
  return kernels;
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(Kernels);

LinearKernels DispatchedLinearKernels() { return HWY_DYNAMIC_DISPATCH(Kernels)(); }

}  // namespace mambad::kernels
#endif  // HWY_ONCE
