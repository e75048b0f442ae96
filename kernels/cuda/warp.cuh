// A warp, for all device code.

#ifndef MAMBAD_KERNELS_CUDA_WARP_CUH_
#define MAMBAD_KERNELS_CUDA_WARP_CUH_

namespace mambad::kernels::cuda {

inline constexpr int kWarp = 32;  // its lanes

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_WARP_CUH_
