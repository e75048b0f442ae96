// Products of bf16 weights with bf16 activations by dot-product instructions (AVX-512 BF16).
// Compiled for that instruction set alone; callers ask the processor first.

#include "kernels/cpu/linear_kernel.h"

#if defined(__AVX512BF16__)

#include <immintrin.h>

namespace mambad::kernels {
namespace {

template <int R, int P>
void Block(const LinearBlock& block) {
  __m512 sums[R][P];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) {
      sums[r][i] = block.first ? _mm512_setzero_ps()
                               : _mm512_loadu_ps(block.parked + r * kGroupRows + i * kPanelRows);
    }
  }
  const char* weights = block.weights;
  const uint32_t* x = static_cast<const uint32_t*>(block.x);
  const int64_t weight_stride = block.weight_stride, x_stride = block.x_stride,
                prefetch_stride = block.prefetch_stride;
  const char* prefetch = block.prefetch;
  for (int64_t step = block.steps; step > 0; --step) {
    __m512bh w[P];
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) {
      __builtin_prefetch(prefetch + i * kStepBytes, 0, 2);  // into the second cache
      w[i] = (__m512bh)_mm512_loadu_si512(weights + i * kStepBytes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(x[r * x_stride]));
#pragma GCC unroll 16
      for (int i = 0; i < P; ++i) sums[r][i] = _mm512_dpbf16_ps(sums[r][i], w[i], pair);
    }
    x += 1;
    weights += weight_stride;
    prefetch += prefetch_stride;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) {
      if (!block.last) {
        _mm512_storeu_ps(block.parked + r * kGroupRows + i * kPanelRows, sums[r][i]);
        continue;
      }
      const int64_t left = block.outputs - i * kPanelRows;
      if (left <= 0) continue;
      const __mmask16 mask = left >= kPanelRows ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
      float* y = block.y + r * block.y_stride + i * kPanelRows;
      const __m512 sum =
          block.add ? _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), sums[r][i]) : sums[r][i];
      _mm512_mask_storeu_ps(y, mask, sum);
    }
  }
}

template <int R>
void AddRows(LinearBlocks* blocks) {
  blocks->panels[R] = kGroupPanels;
  blocks->function[R][1] = Block<R, 1>;
  blocks->function[R][2] = Block<R, 2>;
  blocks->function[R][3] = Block<R, 3>;
  blocks->function[R][4] = Block<R, 4>;
}

LinearBlocks MakeBlocks() {
  LinearBlocks blocks;
  blocks.max_rows = kMaxRegisterRows;
  AddRows<1>(&blocks);
  AddRows<2>(&blocks);
  AddRows<3>(&blocks);
  AddRows<4>(&blocks);
  AddRows<5>(&blocks);
  AddRows<6>(&blocks);
  return blocks;
}

// The conversion rounds to nearest even and flushes denormals, as the dot product does.
void RoundToPairs(const float* x, int64_t columns, uint32_t* pairs) {
  for (int64_t i = 0; i < columns; i += 16) {
    const int64_t left = columns - i;
    const __mmask16 mask = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
    const __mmask8 words = left >= 15 ? 0xff : static_cast<__mmask8>((1u << ((left + 1) / 2)) - 1);
    _mm256_mask_storeu_epi32(pairs + i / 2, words, rounded);
  }
}

}  // namespace

bool AddAvx512Bfloat16Kernels(LinearKernels* kernels) {
  static const LinearBlocks blocks = MakeBlocks();
  kernels->bfloat16_pairs = &blocks;
  kernels->round_to_pairs = RoundToPairs;
  return true;
}

}  // namespace mambad::kernels

#else

namespace mambad::kernels {
bool AddAvx512Bfloat16Kernels(LinearKernels*) { return false; }
}  // namespace mambad::kernels

#endif
