#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/linear_kernel.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, kPanelRows>;
using V = hn::Vec<D>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
constexpr int kVectors = kPanelRows / kLanes;   // of a panel
// Accumulators that fit the register file beside weights and a broadcast.
constexpr int kRegisters = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_ARCH_ARM ? 32 : 16;

template <int R, int P, bool kBfloat16>
HWY_INLINE void Block(const PanelProduct& p, int64_t panel, int64_t row) {
  const D d;
  const hn::Repartition<uint32_t, D> du;
  const int64_t panel_bytes = PanelBytes(p.columns, kBfloat16);
  const char* weights = static_cast<const char*>(p.weights) + panel * panel_bytes;
  V acc[R][P * kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < P * kVectors; ++i) acc[r][i] = hn::Zero(d);
  }
  const float* x = p.x + row * p.stride;
  const int64_t steps = kBfloat16 ? PanelPairs(p.columns) : p.columns;
  for (int64_t k = 0; k < steps; ++k) {
#pragma GCC unroll 16
    for (int i = 0; i < P * kVectors; ++i) {
      const char* at = weights + (i / kVectors) * panel_bytes + k * 64 + (i % kVectors) * (kLanes * 4);
      if constexpr (kBfloat16) {
        const auto pair = hn::LoadU(du, reinterpret_cast<const uint32_t*>(at));
        const V even = hn::BitCast(d, hn::ShiftLeft<16>(pair));
        const V odd = hn::BitCast(d, hn::And(pair, hn::Set(du, 0xffff0000u)));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          acc[r][i] = hn::MulAdd(even, hn::Set(d, x[r * p.stride + 2 * k]), acc[r][i]);
          acc[r][i] = hn::MulAdd(odd, hn::Set(d, x[r * p.stride + 2 * k + 1]), acc[r][i]);
        }
      } else {
        const V w = hn::LoadU(d, reinterpret_cast<const float*>(at));
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) acc[r][i] = hn::MulAdd(w, hn::Set(d, x[r * p.stride + k]), acc[r][i]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < P * kVectors; ++i) {
      const int64_t out = (panel + i / kVectors) * kPanelRows + (i % kVectors) * kLanes;
      const int64_t left = p.out_rows - out;
      if (left <= 0) continue;
      float* y = p.y + (row + r) * p.y_stride + out;
      if (left >= kLanes) {
        hn::StoreU(p.add ? hn::Add(hn::LoadU(d, y), acc[r][i]) : acc[r][i], d, y);
      } else {
        HWY_ALIGN float tail[kLanes];
        hn::Store(acc[r][i], d, tail);
        for (int64_t j = 0; j < left; ++j) y[j] = p.add ? y[j] + tail[j] : tail[j];
      }
    }
  }
}

template <int P, int kMaxRows, bool kBfloat16>
void Rows(const PanelProduct& p, int64_t panel) {
  int64_t row = 0;
  for (; row + kMaxRows <= p.rows; row += kMaxRows) Block<kMaxRows, P, kBfloat16>(p, panel, row);
  const int64_t left = p.rows - row;
  if (left == 5) Block<5, P, kBfloat16>(p, panel, row);
  if (left == 4) Block<4, P, kBfloat16>(p, panel, row);
  if (left == 3) Block<3, P, kBfloat16>(p, panel, row);
  if (left == 2) Block<2, P, kBfloat16>(p, panel, row);
  if (left == 1) Block<1, P, kBfloat16>(p, panel, row);
}

template <bool kBfloat16>
void Product(const PanelProduct& p) {
  constexpr int kWide = std::max(1, 4 / kVectors * kRegisters / 32);   // panels of a many-row block
  constexpr int kSingle = 8 / kVectors;                                // panels of a one-row block
  int64_t panel = p.panel_begin;
  if (p.rows == 1) {
    for (; panel + kSingle <= p.panel_end; panel += kSingle) Block<1, kSingle, kBfloat16>(p, panel, 0);
  }
  for (; panel + kWide <= p.panel_end; panel += kWide) Rows<kWide, 6, kBfloat16>(p, panel);
  for (; panel < p.panel_end; ++panel) Rows<1, 6, kBfloat16>(p, panel);
}

void Float32Product(const PanelProduct& p) { Product<false>(p); }
void Bfloat16Product(const PanelProduct& p) { Product<true>(p); }

LinearKernels Kernels() {
  LinearKernels kernels;
  kernels.name = hwy::TargetName(HWY_TARGET);
  kernels.float32 = Float32Product;
  kernels.bfloat16 = Bfloat16Product;
  return kernels;
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(Kernels);

namespace {

LinearKernels ChooseKernels() {
  LinearKernels kernels = HWY_DYNAMIC_DISPATCH(Kernels)();
  if (ActiveInstructionSet() >= InstructionSet::kAvx512Bfloat16) {
    kernels.bfloat16 = Avx512Bfloat16Kernels().bfloat16;
    kernels.bfloat16_pairs = true;
  }
  return kernels;
}

uint16_t RoundToBfloat16(float value) {   // to nearest even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

float FromBfloat16(uint16_t value) {
  const uint32_t bits = uint32_t{value} << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

void SplitRow(const float* x, int64_t columns, uint32_t* high, uint32_t* low) {
  const auto part = [columns, x](int64_t column, uint16_t* h, uint16_t* l) {
    const float value = column < columns ? x[column] : 0.0f;
    *h = RoundToBfloat16(value);
    *l = RoundToBfloat16(value - FromBfloat16(*h));
  };
  for (int64_t pair = 0; pair < PanelPairs(columns); ++pair) {
    uint16_t h0, h1, l0, l1;
    part(2 * pair, &h0, &l0);
    part(2 * pair + 1, &h1, &l1);
    high[pair] = h0 | uint32_t{h1} << 16;
    if (low != nullptr) low[pair] = l0 | uint32_t{l1} << 16;
  }
}

}  // namespace

WeightMatrix PackMatrix(int64_t rows, int64_t columns, ElementType type, const MatrixSource& source, ThreadPool& pool) {
  const bool bfloat16 = type == ElementType::kBFloat16;
  const int64_t panels = (rows + kPanelRows - 1) / kPanelRows;
  WeightMatrix matrix;
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.type = type;
  matrix.packed = AllocateMemory(panels * PanelBytes(columns, bfloat16));
  pool.Split(panels, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> wide(bfloat16 ? 0 : kPanelRows * columns);
    std::vector<uint16_t> narrow(bfloat16 ? kPanelRows * columns : 0);
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * kPanelRows, last = std::min(rows, first + kPanelRows);
      char* out = matrix.packed.as<char>() + panel * PanelBytes(columns, bfloat16);
      if (bfloat16) {
        source.bfloat16(first, last, narrow.data());
        uint16_t* to = reinterpret_cast<uint16_t*>(out);
        for (int64_t row = 0; row < last - first; ++row) {
          for (int64_t k = 0; k < columns; ++k) to[(k / 2) * 32 + row * 2 + k % 2] = narrow[row * columns + k];
        }
      } else {
        source.float32(first, last, wide.data());
        float* to = reinterpret_cast<float*>(out);
        for (int64_t row = 0; row < last - first; ++row) {
          for (int64_t k = 0; k < columns; ++k) to[k * kPanelRows + row] = wide[row * columns + k];
        }
      }
    }
  });
  return matrix;
}

void UnpackRow(const WeightMatrix& weights, int64_t row, float* out) {
  const bool bfloat16 = weights.type == ElementType::kBFloat16;
  const char* panel = weights.packed.as<const char>() + row / kPanelRows * PanelBytes(weights.columns, bfloat16);
  const int64_t lane = row % kPanelRows;
  if (bfloat16) {
    const uint16_t* from = reinterpret_cast<const uint16_t*>(panel);
    for (int64_t k = 0; k < weights.columns; ++k) out[k] = FromBfloat16(from[(k / 2) * 32 + lane * 2 + k % 2]);
  } else {
    const float* from = reinterpret_cast<const float*>(panel);
    for (int64_t k = 0; k < weights.columns; ++k) out[k] = from[k * kPanelRows + lane];
  }
}

LinearScratch CreateLinearScratch(int64_t max_rows, int64_t max_columns) {
  LinearScratch scratch;
  scratch.max_rows = max_rows;
  scratch.max_columns = (max_columns + 1 + 15) / 16 * 16;
  scratch.packed = AllocateMemory(2 * scratch.max_rows * scratch.max_columns * sizeof(float));
  return scratch;
}

void Linear(ThreadPool& pool, const WeightMatrix& weights, const RowsView& x, const NormWeights* norm, const RowsView& y,
            LinearOutput output, const LinearSettings& settings, LinearScratch& scratch) {
  if (x.rows == 0) return;
  if (x.columns != weights.columns || y.columns != weights.rows || x.rows > scratch.max_rows ||
      x.columns > scratch.max_columns) {
    Fail("Linear", {x.rows, x.columns, weights.rows, weights.columns, y.columns, scratch.max_rows, scratch.max_columns});
  }
  const LinearKernels kernels = ChooseKernels();
  const bool bfloat16 = weights.type == ElementType::kBFloat16;
  const bool pairs = bfloat16 && kernels.bfloat16_pairs;
  const int64_t stride = scratch.max_columns;
  float* rows = scratch.packed.as<float>();
  uint32_t* words = reinterpret_cast<uint32_t*>(rows + scratch.max_rows * stride);   // [rows][stride / 2] high, then low
  const int64_t word_stride = stride / 2;

  const auto prepare = [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = rows + r * stride;
      const float* from = x.row(r);
      if (norm != nullptr) {
        RmsNormRow(*norm, from, x.columns, row);
        from = row;
      }
      if (pairs) {
        SplitRow(from, x.columns, words + r * word_stride,
                 settings.bfloat16_activations ? nullptr : words + (scratch.max_rows + r) * word_stride);
      } else {
        if (from != row) std::memcpy(row, from, x.columns * sizeof(float));
        row[x.columns] = 0;   // the odd column's partner
      }
    }
  };
  if (x.rows * x.columns < (1 << 14)) {
    prepare(0, x.rows, 0);
  } else {
    pool.Split(x.rows, 1, prepare);
  }

  PanelProduct product;
  product.weights = weights.packed.data();
  product.columns = weights.columns;
  product.out_rows = weights.rows;
  product.x = rows;
  product.high = words;
  product.low = settings.bfloat16_activations ? nullptr : words + scratch.max_rows * word_stride;
  product.stride = pairs ? word_stride : stride;
  product.rows = x.rows;
  product.y = y.data;
  product.y_stride = y.stride;
  product.add = output == LinearOutput::kAdd;
  pool.Split((weights.rows + kPanelRows - 1) / kPanelRows, 8, [&](int64_t begin, int64_t end, int) {
    PanelProduct part = product;
    part.panel_begin = begin;
    part.panel_end = end;
    bfloat16 ? kernels.bfloat16(part) : kernels.float32(part);
  });
}

std::string LinearInstructionSet() { return Name(ActiveInstructionSet()); }

}  // namespace mambad::kernels
#endif  // HWY_ONCE
