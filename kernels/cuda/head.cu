#include "kernels/cuda/errors.h"
#include "kernels/cuda/head.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSpreadThreads = 1024;
constexpr int kHeld = 4;  // numbers a thread moves at once

// Block i: row i; the one behind the last row counts.
__global__ void __launch_bounds__(kThreads)
    Gather(const int32_t* logit_rows, int logit_count, const int32_t* row_count,
           const float* residual, int64_t residual_stride, int columns, float* input,
           int64_t input_stride, int32_t* count) {
  FollowEarlierKernels();
  const int i = blockIdx.x;
  if (i == logit_count) {
    int mine = 0;
    for (int k = threadIdx.x; k < logit_count; k += kThreads) mine += logit_rows[k] >= 0;
    __shared__ int all;
    if (threadIdx.x == 0) all = 0;
    __syncthreads();
    atomicAdd(&all, mine);
    __syncthreads();
    if (threadIdx.x == 0) *count = all;
    return;
  }
  const int row = logit_rows[i];
  if (row < 0) return;
  if (row >= *row_count) __trap();
  for (int c = threadIdx.x; c < columns; c += kThreads) {
    input[i * input_stride + c] = residual[row * residual_stride + c];
  }
}

// A block a row, in place. From the last numbers to the first, since tokens[i] >= i: what is
// written lies at or behind the first number of those just read.
__global__ void __launch_bounds__(kSpreadThreads)
    Spread(const int32_t* row_count, const int32_t* tokens, int token_count, float* logits,
           int64_t stride, int vocabulary) {
  if (row_count != nullptr && static_cast<int>(blockIdx.x) >= *row_count) return;
  float* row = logits + blockIdx.x * stride;
  const int thread = threadIdx.x;
  int end = vocabulary;  // from here on the row is done
  for (int last = token_count; last > 0; last -= kHeld * kSpreadThreads) {
    const int first = max(last - kHeld * kSpreadThreads, 0);
    float numbers[kHeld] = {};
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      const int i = first + k * kSpreadThreads + thread;
      if (i < last) numbers[k] = row[i];
    }
    __syncthreads();
    const int begin = tokens[first];
    for (int i = begin + thread; i < end; i += kSpreadThreads) row[i] = kUnproposedLogit;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
      const int i = first + k * kSpreadThreads + thread;
      if (i >= last) continue;
      const int token = tokens[i];
      if (token < i || token >= vocabulary) __trap();
      row[token] = numbers[k];
    }
    end = begin;
  }
  for (int i = thread; i < end; i += kSpreadThreads) row[i] = kUnproposedLogit;
}

}  // namespace

void GatherLogitRows(cudaStream_t stream, const Batch& batch, const RowsView& residual,
                     const RowsView& input, int32_t* count) {
  if (input.columns != residual.columns || input.rows < batch.logit_count) {
    Fail("GatherLogitRows", {input.rows, batch.logit_count, input.columns, residual.columns});
  }
  LaunchEarly("GatherLogitRows", stream, dim3(batch.logit_count + 1), dim3(kThreads), 0, Gather,
              batch.logit_rows, batch.logit_count, batch.row_begin + batch.sequences, residual.data,
              residual.stride, static_cast<int>(residual.columns), input.data, input.stride, count);
}

void SpreadOverTokens(cudaStream_t stream, const int32_t* row_count, const int32_t* tokens,
                      int64_t token_count, const RowsView& logits) {
  if (token_count > logits.columns) Fail("SpreadOverTokens", {token_count, logits.columns});
  Launch("SpreadOverTokens", stream, dim3(logits.rows), dim3(kSpreadThreads), 0, Spread, row_count,
         tokens, static_cast<int>(token_count), logits.data, logits.stride,
         static_cast<int>(logits.columns));
}

}  // namespace mambad::kernels::cuda
