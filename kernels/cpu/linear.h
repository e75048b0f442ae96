// The skinny product y = W x for any number of rows: one kernel, one order of summation an output
// element whatever the number of rows, so that prefill, verify and single steps agree bit for
// bit.

#ifndef MAMBAD_KERNELS_CPU_LINEAR_H_
#define MAMBAD_KERNELS_CPU_LINEAR_H_

#include <cstdint>
#include <string>

#include "kernels/backend.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/tensor.h"

namespace mambad::kernels {

enum class LinearOutput { kStore, kAdd };  // y = W x; y += W x

// Bytes that such a matrix takes.
int64_t PackedBytes(int64_t rows, int64_t columns, ElementType type);

// Packs W for streaming: panels of output rows, each panel's columns in the order they are summed.
WeightMatrix PackMatrix(int64_t rows, int64_t columns, ElementType type, const MatrixSource& source,
                        ThreadPool& pool);

// One row of a packed matrix as float32 (embedding look-up). out [columns].
void UnpackRow(const WeightMatrix& weights, int64_t row, float* out);

// Scratch for the activations' packed form. Holds max_rows rows of max_columns numbers.
struct LinearScratch {
  Buffer packed;
  int64_t max_rows = 0, max_columns = 0;
};
LinearScratch CreateLinearScratch(int64_t max_rows, int64_t max_columns,
                                  const Allocate& allocate = AllocateMemory);

struct LinearSettings {
  // kBFloat16: round activations before products with bf16 weights, where the machine has fast
  // products of both: half the arithmetic at least. Otherwise they stay float32 everywhere:
  // splitting them into two bf16 parts would take as many instructions as float32 products do, and
  // lose bits.
  ElementType activations = ElementType::kFloat32;
};

// Whether that is done here, before products with such weights.
bool RoundsActivations(const LinearSettings& settings, ElementType weights);

// y [R, rows] (=, +=) W x [R, columns], then += bias [rows] unless that is nullptr. With `norm`,
// each row of x is RMS-normalised on the way in. Split over threads by output rows.
void Linear(ThreadPool& pool, const WeightMatrix& weights, const RowsView& x,
            const NormWeights* norm, const RowsView& y, LinearOutput output,
            const LinearSettings& settings, LinearScratch& scratch, const float* bias = nullptr);

// Name of the instruction set chosen at run time for products: "AVX2", "AVX-512", "AVX-512 BF16",
// ...
std::string LinearInstructionSet();

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_LINEAR_H_
