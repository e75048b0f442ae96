// Activations of a number by itself, for device code; accurate to a few units in the last place.

#ifndef MAMBAD_KERNELS_CUDA_ACTIVATION_CUH_
#define MAMBAD_KERNELS_CUDA_ACTIVATION_CUH_

namespace mambad::kernels::cuda {

inline constexpr float kLog2e = 1.44269504088896341f;

// x / (1 + e^-x)
__device__ inline float SiLU(float x) { return x / (1.0f + expf(-x)); }

// log(1 + e^x)
__device__ inline float Softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_ACTIVATION_CUH_
