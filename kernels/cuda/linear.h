// The product y = W x for any number of rows, 1 to thousands: one order of summation an output
// element (packing.cuh) and the same instructions whatever the number of rows, so that prompts,
// verify and single steps agree bit for bit.
//
// With bfloat16 weights x is rounded to bfloat16, nearest even, on its way in, sums are float32.
// With float32 weights everything is float32. A norm is taken so, for either type:
//   u = x * norm weight (rounded as above);  y = (W u) * (1 / sqrt(mean(x^2) + epsilon))
// the scale applied to the finished sum: no product has to wait for the norm.

#ifndef MAMBAD_KERNELS_CUDA_LINEAR_H_
#define MAMBAD_KERNELS_CUDA_LINEAR_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/buffer.h"
#include "kernels/cuda/linear_cut.h"
#include "kernels/cuda/packing.h"
#include "kernels/cuda/token_tiles.h"
#include "kernels/tensor.h"

namespace mambad::kernels::cuda {

enum class LinearOutput { kStore, kAdd };  // y = W x; y += W x

// Of the current device, which is told what products need: once, before any scratch is made.
ProductUnits OpenProductUnits();

// Room for max_rows rows of max_columns numbers on their way into a product. Of the device that was
// current when it was made; used by one stream at a time.
struct LinearScratch {
  Buffer activations;  // as a kernel reads them: bfloat16 operands or float32 rows
  Buffer scales;       // [max_rows]: 1 / sqrt(mean(x^2) + epsilon); or [max_rows][8]: sums of x^2
  int64_t max_rows = 0, max_columns = 0;
  ProductUnits units;
};
LinearScratch CreateLinearScratch(const ProductUnits& units, int64_t max_rows, int64_t max_columns,
                                  const Allocate& allocate);

// y [R, rows of W] (=, +=) W x [R, columns of W], then += bias [rows of W] unless that is nullptr.
// All data is device memory. `row_count`: the rows that there are, at most x.rows, of which launch
// sizes follow; nullptr: all. Rows beyond it are neither read nor written. `norm`: see above;
// nullptr: none; its weight nullptr: times 1. x and y do not overlap.
void Linear(cudaStream_t stream, const int32_t* row_count, const WeightMatrix& weights,
            const RowsView& x, const NormWeights* norm, const RowsView& y, LinearOutput output,
            LinearScratch& scratch, const float* bias = nullptr);

// Where the next product with these weights, of so many rows without a norm, takes its rows from;
// nothing, where it takes them as they are. Another product in between overwrites them.
TokenTiles TilesFor(const WeightMatrix& weights, int64_t rows, LinearScratch& scratch);

// As Linear, of x.rows rows that TilesFor's tiles hold: x has their number and width alone.
void LinearOfTiles(cudaStream_t stream, const int32_t* row_count, const WeightMatrix& weights,
                   const RowsView& x, const TokenTiles& tiles, const RowsView& y,
                   LinearOutput output, LinearScratch& scratch, const float* bias = nullptr);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_LINEAR_H_
