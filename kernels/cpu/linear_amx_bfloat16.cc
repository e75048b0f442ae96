// Products of bf16 weights with bf16 activations by matrix tiles (AMX-BF16): 16 rows by 16 outputs
// by 16 steps at once. Compiled for that instruction set alone; callers ask the processor first.
//
// An output takes its steps in sixteens. Of sixteen pairs, the lower columns are one chain of fused
// multiply-adds and the upper ones another, both from zero, and their sum is added to what was
// there; denormals are flushed (Intel's manual, TDPBF16PS). A row's bits depend on no other row.

#include "kernels/cpu/linear_kernel.h"

#if defined(__AMX_BF16__) && defined(__AVX512F__)

#include <immintrin.h>

#include <cstring>

namespace mambad::kernels {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64;  // of a tile; a row of it
constexpr int kTileSteps = 16;                  // that one instruction takes

// The tiles, by number, which must be literals where they are used: sums 0 to 3, activations 4 and
// 5, weights 6 and 7.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // Up to 16 rows: sums of four panels. Up to 32: of two panels, 16 rows in tiles 0 and 1, the
  // others in 2 and 3.
  explicit TileShapes(int count) {
    const bool two = count > kTileRows;
    const int upper = two ? count - kTileRows : count, lower = two ? kTileRows : count;
    const int tile_rows[] = {lower, lower, upper, upper, lower, upper, kTileSteps, kTileSteps};
    for (int tile = 0; tile < 8; ++tile) {
      rows[tile] = static_cast<uint8_t>(tile_rows[tile]);
      row_bytes[tile] = kTileBytes;
    }
  }
};

// Steps that do not fill a tile, with zeroes behind them.
struct alignas(64) LastSteps {
  char weights[kGroupPanels][kTileSteps][kStepBytes];
  uint32_t x[2 * kTileRows][kTileSteps];

  LastSteps(const LinearBlock& block, int rows, int panels, int64_t first, int64_t steps) {
    std::memset(this, 0, sizeof(*this));
    for (int64_t s = 0; s < steps; ++s) {
      for (int i = 0; i < panels; ++i) {
        std::memcpy(weights[i][s],
                    block.weights + (first + s) * block.weight_stride + i * kStepBytes, kStepBytes);
      }
    }
    const uint32_t* from = static_cast<const uint32_t*>(block.x) + first;
    for (int r = 0; r < rows; ++r) std::memcpy(x[r], from + r * block.x_stride, steps * 4);
  }
};

// Where the operands of one multiplication of tiles are.
struct Operands {
  const char* weights;
  int64_t weight_stride, panel_stride;  // bytes
  const uint32_t* x;
  int64_t x_stride;  // bytes
};

// One to four panels of up to 16 rows.
template <int P>
inline void MultiplyFew(const Operands& at) {
  _tile_loadd(4, at.x, at.x_stride);
  _tile_loadd(6, at.weights, at.weight_stride);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (P > 1) {
    _tile_loadd(7, at.weights + at.panel_stride, at.weight_stride);
    _tile_dpbf16ps(1, 4, 7);
  }
  if constexpr (P > 2) {
    _tile_loadd(6, at.weights + 2 * at.panel_stride, at.weight_stride);
    _tile_dpbf16ps(2, 4, 6);
  }
  if constexpr (P > 3) {
    _tile_loadd(7, at.weights + 3 * at.panel_stride, at.weight_stride);
    _tile_dpbf16ps(3, 4, 7);
  }
}

// One or two panels of 17 to 32 rows.
template <int P>
inline void MultiplyMany(const Operands& at) {
  _tile_loadd(4, at.x, at.x_stride);
  _tile_loadd(6, at.weights, at.weight_stride);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(5, reinterpret_cast<const char*>(at.x) + kTileRows * at.x_stride, at.x_stride);
  _tile_dpbf16ps(2, 5, 6);
  if constexpr (P > 1) {
    _tile_loadd(7, at.weights + at.panel_stride, at.weight_stride);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// Tiles 0 to 3 from and to [rows][stride bytes], of P panels beside each other.
template <bool kMany, int P>
inline void LoadSums(const float* sums, int64_t stride) {
  _tile_loadd(0, sums, stride);
  if constexpr (P > 1) _tile_loadd(1, sums + kPanelRows, stride);
  if constexpr (kMany) {
    const float* upper = sums + kTileRows * stride / 4;
    _tile_loadd(2, upper, stride);
    if constexpr (P > 1) _tile_loadd(3, upper + kPanelRows, stride);
  } else {
    if constexpr (P > 2) _tile_loadd(2, sums + 2 * kPanelRows, stride);
    if constexpr (P > 3) _tile_loadd(3, sums + 3 * kPanelRows, stride);
  }
}

template <bool kMany, int P>
inline void StoreSums(float* sums, int64_t stride) {
  _tile_stored(0, sums, stride);
  if constexpr (P > 1) _tile_stored(1, sums + kPanelRows, stride);
  if constexpr (kMany) {
    float* upper = sums + kTileRows * stride / 4;
    _tile_stored(2, upper, stride);
    if constexpr (P > 1) _tile_stored(3, upper + kPanelRows, stride);
  } else {
    if constexpr (P > 2) _tile_stored(2, sums + 2 * kPanelRows, stride);
    if constexpr (P > 3) _tile_stored(3, sums + 3 * kPanelRows, stride);
  }
}

inline void ZeroSums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// [rows][kGroupRows] to where they belong.
void StoreOutputs(const LinearBlock& block, const float* sums, int rows, int panels) {
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < panels; ++i) {
      const int64_t left = block.outputs - i * kPanelRows;
      if (left <= 0) break;
      const __mmask16 mask = left >= kPanelRows ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
      float* y = block.y + r * block.y_stride + i * kPanelRows;
      const __m512 sum = _mm512_loadu_ps(sums + r * kGroupRows + i * kPanelRows);
      _mm512_mask_storeu_ps(y, mask,
                            block.add ? _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), sum) : sum);
    }
  }
}

template <bool kMany, int P>
inline void Multiply(const Operands& at) {
  if constexpr (kMany) {
    MultiplyMany<P>(at);
  } else {
    MultiplyFew<P>(at);
  }
}

template <bool kMany, int P>
void MultiplyPanels(const LinearBlock& block, int rows) {
  constexpr int64_t kParkedBytes = kGroupRows * sizeof(float);
  if (block.first) {
    ZeroSums();
  } else {
    LoadSums<kMany, P>(block.parked, kParkedBytes);
  }
  Operands at{block.weights, block.weight_stride, kStepBytes, static_cast<const uint32_t*>(block.x),
              block.x_stride * 4};
  const char* prefetch = block.prefetch;
  int64_t step = 0;
  for (; step + kTileSteps <= block.steps; step += kTileSteps) {
    for (int s = 0; s < kTileSteps; ++s, prefetch += block.prefetch_stride) {
      for (int i = 0; i < P; ++i) __builtin_prefetch(prefetch + i * kStepBytes, 0, 2);
    }
    Multiply<kMany, P>(at);
    at.weights += kTileSteps * block.weight_stride;
    at.x += kTileSteps;
  }
  if (step < block.steps) {
    const LastSteps last(block, rows, P, step, block.steps - step);
    Multiply<kMany, P>(
        {last.weights[0][0], kStepBytes, sizeof(last.weights[0]), last.x[0], sizeof(last.x[0])});
  }
  if (!block.last) {
    StoreSums<kMany, P>(block.parked, kParkedBytes);
    return;
  }
  alignas(64) float sums[2 * kTileRows * kGroupRows];
  StoreSums<kMany, P>(sums, kParkedBytes);
  StoreOutputs(block, sums, rows, P);
}

// The lower and the upper columns of sixteen pairs, as floats.
inline __m512 Lower(__m512i pairs) {
  return reinterpret_cast<__m512>(reinterpret_cast<__v16su>(pairs) << 16);
}
inline __m512 Upper(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-0x10000)));
}

// The sums of one row, [P][kPanelRows]: those of tiles where denormals are flushed.
template <int P>
[[gnu::noinline]] void SumOneRow(const LinearBlock& block, float* sums) {
  __m512 sum[P];
#pragma GCC unroll 4
  for (int i = 0; i < P; ++i) {
    sum[i] = block.first ? _mm512_setzero_ps() : _mm512_loadu_ps(block.parked + i * kPanelRows);
  }
  const char* weights = block.weights;
  const char* prefetch = block.prefetch;
  const uint32_t* x = static_cast<const uint32_t*>(block.x);
  for (int64_t left = block.steps; left > 0; left -= kTileSteps) {
    __m512 lower[P], upper[P];
#pragma GCC unroll 4
    for (int i = 0; i < P; ++i) lower[i] = upper[i] = _mm512_setzero_ps();
    for (int64_t step = left < kTileSteps ? left : kTileSteps; step > 0; --step, ++x) {
      const __m512i x_pair = _mm512_set1_epi32(static_cast<int>(*x));
      const __m512 x_lower = Lower(x_pair), x_upper = Upper(x_pair);
#pragma GCC unroll 4
      for (int i = 0; i < P; ++i) {
        __builtin_prefetch(prefetch + i * kStepBytes, 0, 2);
        const __m512i pairs = _mm512_loadu_si512(weights + i * kStepBytes);
        lower[i] = _mm512_fmadd_ps(Lower(pairs), x_lower, lower[i]);
        upper[i] = _mm512_fmadd_ps(Upper(pairs), x_upper, upper[i]);
      }
      weights += block.weight_stride;
      prefetch += block.prefetch_stride;
    }
#pragma GCC unroll 4
    for (int i = 0; i < P; ++i) {
      if (left < kTileSteps) {  // a tile's zeroes behind the last steps: of -0 they make 0
        lower[i] = _mm512_add_ps(lower[i], _mm512_setzero_ps());
        upper[i] = _mm512_add_ps(upper[i], _mm512_setzero_ps());
      }
      sum[i] = _mm512_add_ps(sum[i], _mm512_add_ps(lower[i], upper[i]));
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < P; ++i) _mm512_storeu_ps(sums + i * kPanelRows, sum[i]);
}

// Calls and no inlining, for the compiler knows of no order between arithmetic and its rules.
template <int P>
[[gnu::noinline]] void SumOneRowFlushed(const LinearBlock& block, float* sums) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON);
  SumOneRow<P>(block, sums);
  _mm_setcsr(before);
}

// One row by vectors, which read weights in the order of memory and wait less for it than tiles.
template <int P>
void OneRow(const LinearBlock& block) {
  alignas(64) float sums[kGroupRows];
  SumOneRowFlushed<P>(block, block.last ? sums : block.parked);
  if (block.last) StoreOutputs(block, sums, 1, P);
}

template <int R, int P>
void Block(const LinearBlock& block) {
  if constexpr (R == 1) return OneRow<P>(block);
  static const TileShapes shapes(R);
  _tile_loadconfig(&shapes);
  if constexpr (R <= kTileRows) {
    MultiplyPanels<false, P>(block, R);
  } else {
    LinearBlock pair = block;
    for (int i = 0; i < P; i += 2) {
      if (i + 1 < P) {
        MultiplyPanels<true, 2>(pair, R);
      } else {
        MultiplyPanels<true, 1>(pair, R);
      }
      pair.weights += 2 * kStepBytes;
      pair.prefetch += 2 * kStepBytes;
      pair.parked += 2 * kPanelRows;
      pair.y += 2 * kPanelRows;
      pair.outputs -= 2 * kPanelRows;
    }
  }
  _tile_release();
}

template <int R>
void AddRows(LinearBlocks* blocks) {
  blocks->panels[R] = kGroupPanels;
  blocks->function[R][1] = Block<R, 1>;
  blocks->function[R][2] = Block<R, 2>;
  blocks->function[R][3] = Block<R, 3>;
  blocks->function[R][4] = Block<R, 4>;
  if constexpr (R > 1) AddRows<R - 1>(blocks);
}

LinearBlocks MakeBlocks() {
  LinearBlocks blocks;
  blocks.max_rows = kMaxBlockRows;
  AddRows<kMaxBlockRows>(&blocks);
  return blocks;
}

}  // namespace

bool AddAmxBfloat16Kernels(LinearKernels* kernels) {
  static const LinearBlocks blocks = MakeBlocks();
  kernels->bfloat16_pairs = &blocks;
  return true;
}

}  // namespace mambad::kernels

#else

namespace mambad::kernels {
bool AddAmxBfloat16Kernels(LinearKernels*) { return false; }
}  // namespace mambad::kernels

#endif
