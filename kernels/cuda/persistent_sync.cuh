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

// A count in device memory that all blocks see. What the caller's block has written, and met about,
// is seen by who sees the count.
__device__ __forceinline__ void AddRelease(uint32_t* count, uint32_t number) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(count), "r"(number) : "memory");
}
__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* count) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(count) : "memory");
  return value;
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
