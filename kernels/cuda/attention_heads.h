// Private to attention: what happens to heads before anybody looks at keys, and where keys and
// values stand.

#ifndef MAMBAD_KERNELS_CUDA_ATTENTION_HEADS_H_
#define MAMBAD_KERNELS_CUDA_ATTENTION_HEADS_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/backend.h"

namespace mambad::kernels::cuda {

inline constexpr int kMaxHeadWidth = 256;

// Where key/value head `head` of a position stands in all pages, in elements; head_width of them.
// `pages`: the sequence's row of Batch::pages.
__host__ __device__ inline int64_t KeyValuePlace(const AttentionLayer& layer, const int32_t* pages,
                                                 int64_t position, int head) {
  const int64_t page = pages[position / kPageTokens];
  return ((page * layer.key_value_heads + head) * kPageTokens + position % kPageTokens) *
         layer.head_width;
}

// Norms of query and key heads and their rotation; queries go back to projected [R, (H + 2 K) hd],
// keys and values to their pages.
void PrepareHeads(cudaStream_t stream, const Batch& batch, const AttentionLayer& layer,
                  const KeyValueState& state, const RowsView& projected);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_ATTENTION_HEADS_H_
