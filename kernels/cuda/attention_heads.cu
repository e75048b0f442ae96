#include <cuda_bf16.h>

#include "kernels/cuda/attention_heads.h"
#include "kernels/cuda/batch_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {
namespace {

constexpr int kWarps = 8;  // of a block, a head each
constexpr int kThreads = kWarps * kWarp;
constexpr int kHalf = kMaxHeadWidth / 2;
constexpr int kPairs = kHalf / kWarp;  // (a, b) of a head that a lane holds, at most

__device__ void Put(float value, float* to) { *to = value; }
__device__ void Put(float value, __nv_bfloat16* to) { *to = __float2bfloat16_rn(value); }

// Frequency i at a position: dynamic NTK scaling past the growth's context.
__device__ float FrequencyAt(const AttentionLayer& layer, int64_t position, int i) {
  const float frequency = layer.inverse_frequency[i];
  if (layer.growth.context <= 0 || position < layer.growth.context) return frequency;
  const double times =
      (static_cast<double>(position) + 1) / static_cast<double>(layer.growth.context);
  const double growth = log(layer.growth.factor * times - (layer.growth.factor - 1));
  return static_cast<float>(frequency * exp(growth * (-2.0 * i / (layer.head_width - 2))));
}

// The angle is formed and reduced to [-pi/4, pi/4] in double: a float angle of a late position
// would be off by more than its sine.
__device__ void SineAndCosine(double angle, float& sine, float& cosine) {
  const double quarters = rint(angle * 0.63661977236758134308);
  const double coarse = fma(-quarters, 1.57079632679489661923, angle);
  const float rest = static_cast<float>(fma(-quarters, 6.123233995736766e-17, coarse));
  const float s = sinf(rest), c = cosf(rest);
  const int quadrant = static_cast<int>(static_cast<long long>(quarters) & 3);
  sine = (quadrant & 1) != 0 ? c : s;
  cosine = (quadrant & 1) != 0 ? s : c;
  if ((quadrant & 2) != 0) sine = -sine;
  if (((quadrant + 1) & 2) != 0) cosine = -cosine;
}

// One head, a lane's pairs (a, b): numbers lane + 32 k of its halves.
struct HeadPairs {
  float a[kPairs], b[kPairs];
  int half = 0;

  __device__ int place(int k) const { return threadIdx.x % kWarp + k * kWarp; }

  __device__ HeadPairs(const float* from, int head_width) : half(head_width / 2) {
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      a[k] = place(k) < half ? from[place(k)] : 0.0f;
      b[k] = place(k) < half ? from[half + place(k)] : 0.0f;
    }
  }
  // By the whole warp.
  __device__ void Normalise(const NormWeights& norm) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kPairs; ++k) sum = fmaf(b[k], b[k], fmaf(a[k], a[k], sum));
    const float mean = WarpSum(sum) / static_cast<float>(2 * half);
    const float scale = 1.0f / sqrtf(mean + norm.epsilon);
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      if (place(k) >= half) continue;
      a[k] = a[k] * scale * norm.weight[place(k)];
      b[k] = b[k] * scale * norm.weight[half + place(k)];
    }
  }
  __device__ void Rotate(const float* sines, const float* cosines) {
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      if (place(k) >= half) continue;
      const float sine = sines[place(k)], cosine = cosines[place(k)], first = a[k];
      a[k] = fmaf(-b[k], sine, first * cosine);
      b[k] = fmaf(first, sine, b[k] * cosine);
    }
  }
  template <typename T>
  __device__ void Store(T* to) const {
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      if (place(k) >= half) continue;
      Put(a[k], to + place(k));
      Put(b[k], to + half + place(k));
    }
  }
};

// Block (row, y): heads [y kWarps, (y + 1) kWarps) of a row, queries first, then keys, then values.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    PrepareRow(const __grid_constant__ Batch batch, const __grid_constant__ AttentionLayer layer,
               const __grid_constant__ KeyValueState state,
               const __grid_constant__ RowsView projected) {
  FollowEarlierKernels();
  __shared__ float sines[kHalf], cosines[kHalf];
  const int64_t row = blockIdx.x;
  if (row >= batch.row_begin[batch.sequences]) return;
  const int sequence = SequenceOfRow(batch, row);
  const int64_t position = batch.position[sequence] + row - batch.row_begin[sequence];
  const int first_head = static_cast<int>(blockIdx.y) * kWarps;
  const int rotated = layer.query_heads + layer.key_value_heads;
  if (first_head < rotated) {
    for (int i = threadIdx.x; i < layer.head_width / 2; i += kThreads) {
      SineAndCosine(static_cast<double>(position) * FrequencyAt(layer, position, i), sines[i],
                    cosines[i]);
    }
  }
  __syncthreads();
  const int head = first_head + static_cast<int>(threadIdx.x) / kWarp;
  if (head >= rotated + layer.key_value_heads) return;
  float* const numbers = RowOf(projected, row) + int64_t{head} * layer.head_width;
  HeadPairs pairs(numbers, layer.head_width);
  const NormWeights& norm = head < layer.query_heads ? layer.query_norm : layer.key_norm;
  if (head < rotated && norm.weight != nullptr) pairs.Normalise(norm);
  if (head < rotated) pairs.Rotate(sines, cosines);
  if (head < layer.query_heads) return pairs.Store(numbers);
  const int32_t* const pages =
      batch.pages + int64_t{batch.slot[sequence]} * batch.pages_per_sequence;
  if (head < rotated) {
    const int64_t place = KeyValuePlace(layer, pages, position, head - layer.query_heads);
    pairs.Store(reinterpret_cast<T*>(state.keys) + place);
  } else {
    const int64_t place = KeyValuePlace(layer, pages, position, head - rotated);
    pairs.Store(reinterpret_cast<T*>(state.values) + place);
  }
}

}  // namespace

void PrepareHeads(cudaStream_t stream, const Batch& batch, const AttentionLayer& layer,
                  const KeyValueState& state, const RowsView& projected) {
  const int heads = layer.query_heads + 2 * layer.key_value_heads;
  const dim3 grid(batch.rows, (heads + kWarps - 1) / kWarps);
  const auto kernel =
      state.layout.type == ElementType::kBFloat16 ? PrepareRow<__nv_bfloat16> : PrepareRow<float>;
  LaunchEarly("PagedAttention: heads", stream, grid, dim3(kThreads), 0, kernel, batch, layer, state,
              projected);
}

}  // namespace mambad::kernels::cuda
