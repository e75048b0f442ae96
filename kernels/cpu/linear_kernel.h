// Private to linear: the layout of packed weights and the block kernels of each instruction set.
//
// LAYOUT. 16 output rows are a panel. Panels are dealt out in `parts` contiguous parts, part s
// beginning at panel panels * s / parts, as a thread pool of that size splits them; four panels
// of a part are a group, the last group of a part may have fewer. A step is one column (float32)
// or two (bf16); at each step a panel has 64 bytes: 16 floats, or 16 pairs of bf16. Inside a
// group steps follow each other, and inside a step the panels:
//   byte of (group that begins at panel g, step s, panel i of the group, lane l)
//     = g * steps * 64 + (s * panels of the group + i) * 64 + l * 4
// so that each thread reads its weights from first to last. Rows and columns beyond the matrix
// are zero.
//
// ORDER. An output element is one accumulator that starts at zero and takes the columns one by
// one, lowest first, with one fused multiply-add each (bf16 dot products: one pair each; tiles:
// sixteen pairs each, linear_amx_bfloat16.cc). How
// many rows and panels are worked on together, and where accumulators are parked between blocks
// of steps, does not touch that order.

#ifndef MAMBAD_KERNELS_CPU_LINEAR_KERNEL_H_
#define MAMBAD_KERNELS_CPU_LINEAR_KERNEL_H_

#include <cstdint>

namespace mambad::kernels {

inline constexpr int kPanelRows = 16;
inline constexpr int kGroupPanels = 4;
inline constexpr int kGroupRows = kPanelRows * kGroupPanels;
inline constexpr int kStepBytes = 64;  // of a panel
inline constexpr int kMaxBlockRows = 32;
inline constexpr int kMaxRegisterRows = 6;  // of them, with sums in vector registers

// R rows by P panels by a range of steps.
struct LinearBlock {
  const char* weights = nullptr;  // first panel at the first step
  int64_t weight_stride = 0;      // bytes from one step to the next
  int64_t steps = 0;
  const char* prefetch = nullptr;  // lines to bring near, one a panel and step; they may lie behind
                                   // the end of what was allocated
  int64_t prefetch_stride = 0;     // bytes from one step's to the next step's
  const void* x = nullptr;  // first row at the first step: floats, or 32-bit words of two bf16
                            // (lower column low)
  int64_t x_stride = 0;     // floats or words from one row to the next
  bool first = false, last = false;
  float* parked = nullptr;  // accumulators before (unless first) and after (unless last);
                            // kGroupRows floats a row
  float* y = nullptr;       // written when last: y = or y += the sums
  int64_t y_stride = 0;
  int64_t outputs = 0;  // outputs of this block that exist
  bool add = false;
};

using LinearBlockFunction = void (*)(const LinearBlock&);

// The block kernels of one instruction set for one kind of operands.
struct LinearBlocks {
  int max_rows = 0;                    // up to kMaxBlockRows
  int panels[kMaxBlockRows + 1] = {};  // for R rows: most panels at once
  LinearBlockFunction function[kMaxBlockRows + 1][kGroupPanels + 1] = {};  // [R][P]
};

struct LinearKernels {
  const LinearBlocks* float32 = nullptr;         // float32 weights and activations
  const LinearBlocks* bfloat16 = nullptr;        // bf16 weights, float32 activations
  const LinearBlocks* bfloat16_pairs = nullptr;  // bf16 weights and activations; nullptr: none
  // Rounds `columns` floats to pairs of bf16 (nearest even); an odd last one is paired with zero.
  void (*round_to_pairs)(const float* x, int64_t columns, uint32_t* pairs) = nullptr;
};

// The best that Highway dispatches to, without pairs.
LinearKernels DispatchedLinearKernels();

// Adds what AVX-512 BF16 has, or puts what AMX has in its place, to be called after it; false where
// the build has none. Whether the machine has: kernels/cpu/instruction_set.h.
bool AddAvx512Bfloat16Kernels(LinearKernels* kernels);
bool AddAmxBfloat16Kernels(LinearKernels* kernels);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_LINEAR_KERNEL_H_
