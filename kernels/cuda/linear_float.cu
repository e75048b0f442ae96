// Products with float32 weights: a thread carries the chain of one output's eighth of the columns
// for up to eight tokens.

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/packing.cuh"

namespace mambad::kernels::cuda {
namespace {

static_assert(kFloatPanelRows == kWarp);

// Block (i, j): panel i, tokens kTokens j ...
template <int kTokens>
__global__ void __launch_bounds__(kEighths* kWarp) MultiplyFloatRows(const Product p) {
  __shared__ float parts[kEighths][kTokens][kWarp];
  const int eighth = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int first_token = blockIdx.y * kTokens;
  const int there = min(p.RowsThatThereAre() - first_token, kTokens);
  if (there <= 0) return;
  const int quads = static_cast<int>(Quads(p.columns));
  const int begin = EighthBegin(quads, eighth), end = EighthBegin(quads, eighth + 1);
  const float4* weights =
      static_cast<const float4*>(p.weights) + int64_t{blockIdx.x} * quads * kWarp + lane;
  const float4* x[kTokens];
#pragma unroll
  for (int n = 0; n < kTokens; ++n) {  // where there is no such token, the last one again
    x[n] = reinterpret_cast<const float4*>(p.numbers +
                                           (first_token + min(n, there - 1)) * p.numbers_stride);
  }
  float sums[kTokens] = {};
#pragma unroll 4
  for (int quad = begin; quad < end; ++quad) {
    const float4 weight = __ldg(weights + int64_t{quad} * kWarp);
#pragma unroll
    for (int n = 0; n < kTokens; ++n) {
      const float4 value = __ldg(x[n] + quad);
      sums[n] = fmaf(weight.x, value.x, sums[n]);
      sums[n] = fmaf(weight.y, value.y, sums[n]);
      sums[n] = fmaf(weight.z, value.z, sums[n]);
      sums[n] = fmaf(weight.w, value.w, sums[n]);
    }
  }
#pragma unroll
  for (int n = 0; n < kTokens; ++n) parts[eighth][n][lane] = sums[n];
  __syncthreads();
  for (int i = threadIdx.x; i < kTokens * kWarp; i += kEighths * kWarp) {
    const int n = i / kWarp, row = i % kWarp, output = blockIdx.x * kFloatPanelRows + row;
    if (n >= there || output >= p.outputs) continue;
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kEighths; ++k) sum += parts[k][n][row];
    const int token = first_token + n;
    p.Put(token, output, sum, p.normed ? p.scales[token] : 1);
  }
}

template <int kTokens>
void Start(cudaStream_t stream, const Product& product) {
  Launch("Linear: float32", stream,
         dim3(FloatPanels(product.outputs), (product.rows + kTokens - 1) / kTokens),
         dim3(kEighths * kWarp), 0, MultiplyFloatRows<kTokens>, product);
}

}  // namespace

void LaunchFloatRows(cudaStream_t stream, const Product& product) {
  if (product.rows == 1) {
    Start<1>(stream, product);
  } else {
    Start<8>(stream, product);
  }
}

}  // namespace mambad::kernels::cuda
