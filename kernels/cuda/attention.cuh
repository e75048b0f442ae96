// Private to attention: what its kernels are told, and how keys are taken.

#ifndef MAMBAD_KERNELS_CUDA_ATTENTION_CUH_
#define MAMBAD_KERNELS_CUDA_ATTENTION_CUH_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/backend.h"

namespace mambad::kernels::cuda {

// Positions of a stretch. What a query's stretches give is merged in their order.
inline constexpr int kStretch = 256;

struct AttentionArguments {
  Batch batch;
  AttentionLayer layer;
  KeyValueState state;
  RowsView projected, out;
  float scale = 1;    // log2(e) score_factor / sqrt(hd)
  int stretches = 1;  // that a row sees, at most
  // Where stretches have blocks of their own: sums [R, H, stretches, hd], and of each its maximum
  // and its weights' sum [R, H, stretches].
  float* sums = nullptr;
  float2* weights = nullptr;

#ifdef __CUDACC__
  __device__ int group() const { return layer.query_heads / layer.key_value_heads; }
  __device__ int64_t Oldest(int64_t position) const {
    return layer.sliding_window > 0 ? max(int64_t{0}, position - layer.sliding_window + 1)
                                    : int64_t{0};
  }
  // Stretch `index` of those that a row sees, of a query head.
  __device__ int64_t Place(int64_t row, int head, int64_t index) const {
    return (row * layer.query_heads + head) * stretches + index;
  }
#endif
};

// Attention over keys and values in bf16 on tensor cores, all stretches of a row or, where there is
// scratch, each in a block of its own that leaves what it found there. False, and nothing is
// launched, where the layer's sizes or types do not fit; they alone decide.
bool AttendTiles(cudaStream_t stream, const AttentionArguments& arguments);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_ATTENTION_CUH_
