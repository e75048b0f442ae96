// Elements in memory as floats in registers: single ones and short vectors. SiLU and its slope.

#ifndef MAMBAD_KERNELS_CUDA_TRAINING_ELEMENT_ACCESS_CUH_
#define MAMBAD_KERNELS_CUDA_TRAINING_ELEMENT_ACCESS_CUH_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace mambad::kernels::cuda {

// Null, or what the runtime has against the launch before.
inline const char* LaunchError() {
  const cudaError_t status = cudaGetLastError();
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

// kWidth elements of memory as they lie there: 1, 4 or 8 of them.
template <typename Element, int kWidth>
struct alignas(sizeof(Element) * kWidth > 16 ? 16 : sizeof(Element) * kWidth) Pack {
  Element elements[kWidth];
};

__device__ inline float ToFloat(float value) { return value; }
__device__ inline float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename Element>
__device__ Element FromFloat(float value);
template <>
__device__ inline float FromFloat<float>(float value) {
  return value;
}
template <>
__device__ inline __nv_bfloat16 FromFloat<__nv_bfloat16>(float value) {
  return __float2bfloat16(value);
}

template <int kWidth, typename Element>
__device__ Pack<Element, kWidth> LoadPack(const Element* from) {
  return *reinterpret_cast<const Pack<Element, kWidth>*>(from);
}

template <int kWidth, typename Element>
__device__ void Unpack(const Pack<Element, kWidth>& pack, float* values) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = ToFloat(pack.elements[i]);
}

template <int kWidth, typename Element>
__device__ void LoadFloats(const Element* from, float* values) {
  Unpack<kWidth>(LoadPack<kWidth>(from), values);
}

template <int kWidth, typename Element>
__device__ void StoreFloats(Element* to, const float* values) {
  Pack<Element, kWidth> pack;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) pack.elements[i] = FromFloat<Element>(values[i]);
  *reinterpret_cast<Pack<Element, kWidth>*>(to) = pack;
}

// Whether rows of elements may be read in packs of kWidth: null pointers may.
template <typename Element, int kWidth>
bool CanPack(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % alignof(Pack<Element, kWidth>) == 0 &&
         stride % kWidth == 0;
}

// 2^exponent, two units in the last place; 0 where that would be denormal.
__device__ inline float PowerOfTwo(float exponent) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(exponent));
  return result;
}

__device__ inline float Sigmoid(float value) { return __fdividef(1.0f, 1.0f + __expf(-value)); }

// SiLU(value) and d SiLU / d value.
struct Silu {
  float value, slope;
};
__device__ inline Silu SiluOf(float value) {
  const float sigmoid = Sigmoid(value);
  const float silu = value * sigmoid;
  return {silu, sigmoid + silu * (1.0f - sigmoid)};
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TRAINING_ELEMENT_ACCESS_CUH_
