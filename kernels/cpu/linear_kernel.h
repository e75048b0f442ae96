// Private to linear: the shape of a product over packed weights, and one entry per instruction set.

#ifndef MAMBAD_KERNELS_CPU_LINEAR_KERNEL_H_
#define MAMBAD_KERNELS_CPU_LINEAR_KERNEL_H_

#include <cstdint>

namespace mambad::kernels {

inline constexpr int kPanelRows = 16;   // output rows of a panel

// bf16 panel: [columns / 2, rounded up][16][2]; float32 panel: [columns][16]. Rows and columns beyond the matrix are zero.
inline int64_t PanelPairs(int64_t columns) { return (columns + 1) / 2; }
inline int64_t PanelBytes(int64_t columns, bool bfloat16) {
  return bfloat16 ? PanelPairs(columns) * kPanelRows * 4 : columns * kPanelRows * 4;
}

// y[r, out] (=, +=) sum over columns of W[out, column] x[r, column], for panels [panel_begin, panel_end).
// Activations come packed: float32 [rows][stride]; or, for bf16 dot products, pairs of bf16 [rows][stride] 32-bit words,
// `low` holding what rounding `high` left over (nullptr: nothing).
struct PanelProduct {
  const void* weights = nullptr;
  int64_t columns = 0;
  int64_t panel_begin = 0, panel_end = 0;
  int64_t out_rows = 0;                  // rows of the whole matrix: the last panel may be partly filled
  const float* x = nullptr;
  const uint32_t* high = nullptr;
  const uint32_t* low = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  bool add = false;
};

// One instruction set's functions.
struct LinearKernels {
  const char* name = "";
  void (*float32)(const PanelProduct&) = nullptr;
  void (*bfloat16)(const PanelProduct&) = nullptr;
  bool bfloat16_pairs = false;           // `bfloat16` reads high and low instead of x
};

// `bfloat16` is nullptr where the build has no such kernel. Whether the machine has: kernels/cpu/instruction_set.h.
LinearKernels Avx512Bfloat16Kernels();

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_LINEAR_KERNEL_H_
