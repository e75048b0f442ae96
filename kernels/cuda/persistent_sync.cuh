// How threads of a launch that walks a whole pass wait for each other, and for their copies: one
// function an instruction. sm_80 and newer.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_SYNC_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_SYNC_CUH_

#include <cstdint>

namespace mambad::kernels::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Barrier `id` of the block, 0 .. 15, of `count` threads: those that wait and those that do not.
__device__ __forceinline__ void MeetAt(int id, int count) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
}
__device__ __forceinline__ void PassBy(int id, int count) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(count) : "memory");
}

// How memory is read that nobody reads again in this launch: it is the first to leave the second
// cache, so that all else stays there.
__device__ __forceinline__ uint64_t ReadOnce() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// CopyAsync (ptx.cuh) of such memory.
__device__ __forceinline__ void CopyAsyncOnce(void* to, const void* from, uint64_t policy) {
  asm volatile(
      "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)),
      "l"(from), "l"(policy)
      : "memory");
}

// A word in shared memory that turns over when `count` arrivals have come.
__device__ __forceinline__ void InitArrivals(uint64_t* word, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(SharedAddress(word)), "r"(count)
               : "memory");
}
// This thread arrives when all that it asked for by CopyAsync has come.
__device__ __forceinline__ void ArriveWithCopies(uint64_t* word) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(SharedAddress(word))
               : "memory");
}
// Whether the turn of parity `parity` is over; the first one is 0.
__device__ __forceinline__ bool TurnedOver(uint64_t* word, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{.reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
      : "=r"(done)
      : "r"(SharedAddress(word)), "r"(parity)
      : "memory");
  return done != 0;
}

// Numbers that another block writes in this launch: as they stand at the point where all blocks
// meet. A word is seen as a whole.
__device__ __forceinline__ uint4 LoadFresh(const uint4* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ float2 LoadFresh(const float2* from) {
  float2 v;
  asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];"
               : "=f"(v.x), "=f"(v.y)
               : "l"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ float LoadFresh(const float* from) {
  float v;
  asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(v) : "l"(from) : "memory");
  return v;
}
__device__ __forceinline__ void StoreFresh(uint32_t* to, uint32_t word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}
// Brings the line of `at` near, for who will write and read it soon.
__device__ __forceinline__ void PrefetchLine(const void* at) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

// A count in shared memory that one thread raises, and others of the block look at.
__device__ __forceinline__ void RaiseFlag(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.cta.shared.u32 [%0], %1;" ::"r"(SharedAddress(flag)), "r"(value)
               : "memory");
}
__device__ __forceinline__ uint32_t LookAtFlag(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.cta.shared.u32 %0, [%1];"
               : "=r"(value)
               : "r"(SharedAddress(flag))
               : "memory");
  return value;
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_SYNC_CUH_
