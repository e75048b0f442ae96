#include <cuda_bf16.h>

#include "kernels/cuda/embedding.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/packing.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float NumberAt(const uint16_t* packed, int64_t row, int64_t column, int64_t columns) {
  return __uint_as_float(uint32_t{packed[TilePlace(Steps(columns), row, column)]} << 16);
}
__device__ float NumberAt(const float* packed, int64_t row, int64_t column, int64_t columns) {
  return packed[FloatPlace(Quads(columns), row, column)];
}

// A block a row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    EmbedRows(const int32_t* row_count, const int32_t* tokens, const T* packed, int64_t rows,
              int64_t columns, float* residual, int64_t stride) {
  const int row = blockIdx.x;
  if (row >= *row_count) return;
  const int32_t token = tokens[row];
  if (token < 0 || token >= rows) __trap();
  for (int i = threadIdx.x; i < columns; i += kThreads) {
    residual[row * stride + i] = NumberAt(packed, token, i, columns);
  }
}

}  // namespace

void Embed(cudaStream_t stream, const Batch& batch, const WeightMatrix& embedding,
           const RowsView& residual) {
  if (residual.columns != embedding.columns || residual.rows < batch.rows) {
    Fail("Embed", {residual.rows, batch.rows, residual.columns, embedding.columns});
  }
  const int32_t* row_count = batch.row_begin + batch.sequences;
  const auto start = [&](auto kernel, const auto* packed) {
    Launch("Embed", stream, dim3(batch.rows), dim3(kThreads), 0, kernel, row_count, batch.tokens,
           packed, embedding.rows, embedding.columns, residual.data, residual.stride);
  };
  if (embedding.type == ElementType::kBFloat16) {
    start(EmbedRows<uint16_t>, embedding.packed.as<const uint16_t>());
  } else {
    start(EmbedRows<float>, embedding.packed.as<const float>());
  }
}

}  // namespace mambad::kernels::cuda
