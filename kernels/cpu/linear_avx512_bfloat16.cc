// Products of bf16 weights with bf16 dot-product instructions (AVX-512 BF16). Compiled for that instruction set alone; the
// caller checks the machine.

#include "kernels/cpu/linear_kernel.h"

#if defined(__AVX512BF16__)

#include <immintrin.h>

namespace mambad::kernels {
namespace {

// R rows by P panels, all columns in order: each output element is one accumulator, first the high, then the low part of a
// pair of columns.
template <int R, int P, bool kLow>
void Block(const PanelProduct& p, int64_t panel, int64_t row) {
  const int64_t pairs = PanelPairs(p.columns);
  const char* weights = static_cast<const char*>(p.weights) + panel * pairs * 64;
  __m512 acc[R][P];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) acc[r][i] = _mm512_setzero_ps();
  }
  const uint32_t* high = p.high + row * p.stride;
  const uint32_t* low = kLow ? p.low + row * p.stride : nullptr;
  for (int64_t k = 0; k < pairs; ++k) {
    __m512bh w[P];
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) w[i] = (__m512bh)_mm512_loadu_si512(weights + (i * pairs + k) * 64);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const __m512bh h = (__m512bh)_mm512_set1_epi32(static_cast<int>(high[r * p.stride + k]));
#pragma GCC unroll 16
      for (int i = 0; i < P; ++i) acc[r][i] = _mm512_dpbf16_ps(acc[r][i], w[i], h);
      if constexpr (kLow) {
        const __m512bh l = (__m512bh)_mm512_set1_epi32(static_cast<int>(low[r * p.stride + k]));
#pragma GCC unroll 16
        for (int i = 0; i < P; ++i) acc[r][i] = _mm512_dpbf16_ps(acc[r][i], w[i], l);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) {
      const int64_t out = (panel + i) * kPanelRows;
      const int64_t left = p.out_rows - out;
      const __mmask16 mask = left >= kPanelRows ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
      float* y = p.y + (row + r) * p.y_stride + out;
      __m512 value = acc[r][i];
      if (p.add) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), value);
      _mm512_mask_storeu_ps(y, mask, value);
    }
  }
}

template <int P, bool kLow>
void Rows(const PanelProduct& p, int64_t panel) {
  int64_t row = 0;
  for (; row + 6 <= p.rows; row += 6) Block<6, P, kLow>(p, panel, row);
  switch (p.rows - row) {
    case 5: Block<5, P, kLow>(p, panel, row); break;
    case 4: Block<4, P, kLow>(p, panel, row); break;
    case 3: Block<3, P, kLow>(p, panel, row); break;
    case 2: Block<2, P, kLow>(p, panel, row); break;
    case 1: Block<1, P, kLow>(p, panel, row); break;
  }
}

template <bool kLow>
void Product(const PanelProduct& p) {
  int64_t panel = p.panel_begin;
  if (p.rows == 1) {
    for (; panel + 8 <= p.panel_end; panel += 8) Block<1, 8, kLow>(p, panel, 0);
  }
  for (; panel + 4 <= p.panel_end; panel += 4) Rows<4, kLow>(p, panel);
  for (; panel < p.panel_end; ++panel) Rows<1, kLow>(p, panel);
}

void Bfloat16Product(const PanelProduct& p) { p.low != nullptr ? Product<true>(p) : Product<false>(p); }

}  // namespace

LinearKernels Avx512Bfloat16Kernels() {
  LinearKernels kernels;
  kernels.name = "AVX-512 BF16";
  kernels.bfloat16 = Bfloat16Product;
  kernels.bfloat16_pairs = true;
  return kernels;
}

}  // namespace mambad::kernels

#else

namespace mambad::kernels {
LinearKernels Avx512Bfloat16Kernels() { return {}; }
}  // namespace mambad::kernels

#endif
