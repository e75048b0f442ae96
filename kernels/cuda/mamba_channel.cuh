// Mamba-1's recurrence of one channel, whose state numbers a few lanes of a warp hold.

#ifndef MAMBAD_KERNELS_CUDA_MAMBA_CHANNEL_CUH_
#define MAMBAD_KERNELS_CUDA_MAMBA_CHANNEL_CUH_

#include <cstdint>

#include "kernels/cuda/batch_rows.cuh"

namespace mambad::kernels::cuda {

// One channel's part of the state: numbers n = lane, lane + kLanes, ... A warp's 32 threads are
// kWarp / kLanes channels, one behind the other, for each lane.
template <int kLanes, int kNumbers>
struct ChannelState {
  static constexpr int kApart = kWarp / kLanes;  // threads between two lanes of a channel

  int channel = 0, lane = 0;
  bool inside = false;  // there is such a channel
  int size = 0;         // N
  int64_t place = 0;    // of number 0, in the state and in A
  float a[kNumbers], s[kNumbers];

  // Channel `channel` of `channels`; all_a: A of all of them.
  __device__ __forceinline__ ChannelState(int channel, int channels, int size, const float* all_a)
      : channel(channel),
        lane(static_cast<int>(threadIdx.x) % kWarp / kApart),
        inside(channel < channels),
        size(size),
        place(int64_t{channel / 16} * size * 16 + channel % 16) {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) a[k] = holds(k) ? all_a[place + n(k) * 16] : 0.0f;
  }

  __device__ int n(int k) const { return lane + k * kLanes; }
  __device__ bool holds(int k) const { return inside && n(k) < size; }

  __device__ __forceinline__ void Load(const float* from) {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) s[k] = holds(k) ? from[place + n(k) * 16] : 0.0f;
  }
  __device__ __forceinline__ void Store(float* to) const {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      if (holds(k)) to[place + n(k) * 16] = s[k];
    }
  }

  // s <- exp(dt A) s + (dt x) B; number(n) gives B's number n, `dt` is dt log2(e).
  template <typename Number>
  __device__ __forceinline__ void Step(float dt, float input, const Number& number) {
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      const float b_n = n(k) < size ? number(n(k)) : 0.0f;
      s[k] = fmaf(exp2f(dt * a[k]), s[k], input * b_n);
    }
  }
  // Sum over n of s C, number(n) gives C's: each lane its own, lowest first, then the lanes
  // pairwise. All get it.
  template <typename Number>
  __device__ __forceinline__ float Output(const Number& number) const {
    float y = 0;
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      const float c_n = n(k) < size ? number(n(k)) : 0.0f;
      y = fmaf(s[k], c_n, y);
    }
#pragma unroll
    for (int offset = kApart; offset < kWarp; offset *= 2) {
      y += __shfl_xor_sync(kAllLanes, y, offset);
    }
    return y;
  }
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_MAMBA_CHANNEL_CUH_
