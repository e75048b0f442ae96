// Instructions that CUDA C++ has no name for, one function each. sm_80 and newer.

#ifndef MAMBAD_KERNELS_CUDA_PTX_CUH_
#define MAMBAD_KERNELS_CUDA_PTX_CUH_

#include <cuda_bf16.h>

#include <cstdint>

namespace mambad::kernels::cuda {

// 16 bytes that nobody will read again soon: they pass by the first cache. Memory that nothing
// writes while the kernel runs.
__device__ __forceinline__ uint4 LoadStreaming(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

// Two numbers rounded to bf16, nearest even; `low` is the first in memory.
__device__ __forceinline__ uint32_t RoundPair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// sums [16, 8] += left [16, 16] right [16, 8], bf16 in, float32 sums. Of lane l, g = l / 4 and
// t = l % 4:
//   left   x (g, 2t), y (g + 8, 2t), z (g, 2t + 8), w (g + 8, 2t + 8), each with the next column
//   right  x (2t, g), y (2t + 8, g), each with the next row
//   sums   (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
// A sum follows from its row of left, its column of right and itself alone.
__device__ __forceinline__ void MultiplyAdd(const uint4& left, const uint2& right,
                                            float (&sums)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left.x), "r"(left.y), "r"(left.z), "r"(left.w), "r"(right.x), "r"(right.y));
}

// Copies 16 bytes into shared memory, or writes zeros there; done when a wait says so.
__device__ __forceinline__ void CopyAsync(void* to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(present ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// All groups of this thread's copies but the last kLeft are done.
template <int kLeft>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// Of a kernel that was launched to begin before those in front of it have ended, programmatically
// dependent: from here on they have, and what they wrote is seen. Every block calls it, or the next
// such kernel might begin too early. Before sm_90 no kernel is launched so.
__device__ __forceinline__ void WaitForEarlierKernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel may begin, if it was launched so, once all blocks have said this.
__device__ __forceinline__ void LetNextKernelBegin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Of a kernel that has nothing to do before earlier ones have ended; the next may begin as early.
__device__ __forceinline__ void FollowEarlierKernels() {
  LetNextKernelBegin();
  WaitForEarlierKernels();
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PTX_CUH_
