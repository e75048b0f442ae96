// How threads of a launch that walks a whole pass wait for each other, and for their copies: one
// function an instruction. sm_90 and newer.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_SYNC_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_SYNC_CUH_

#include <cstdint>

namespace mambad::kernels::cuda {

__device__ __forceinline__ uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Barrier `id` of the block, 1 .. 15, of `count` threads.
__device__ __forceinline__ void MeetAt(int id, int count) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
}

// From here on the four warps that call this together have kCount registers a thread, of those that
// the block has: fewer than before, or more. Where there is no such instruction, what all have.
template <int kCount>
__device__ __forceinline__ void LeaveRegisters() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}
template <int kCount>
__device__ __forceinline__ void AddRegisters() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

// How memory is read that nobody reads again in this launch: it is the first to leave the second
// cache, so that all else stays there.
__device__ __forceinline__ uint64_t ReadOnce() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// A word in shared memory that turns over when `count` have arrived, and all bytes that those have
// announced. Its turns have parities 0, 1, 0, ..
__device__ __forceinline__ void InitArrivals(uint64_t* word, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(word)), "r"(count)
               : "memory");
}
// What InitArrivals did is seen by copies that arrive.
__device__ __forceinline__ void PublishArrivals() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void Arrive(uint64_t* word) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(word)) : "memory");
}
__device__ __forceinline__ void ArriveAndAnnounce(uint64_t* word, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(word)),
               "r"(bytes)
               : "memory");
}
// Whether the turn of parity `parity` is over; said of the turn at hand and the one before it.
__device__ __forceinline__ bool TurnedOver(uint64_t* word, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{.reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; "
      "selp.u32 %0, 1, 0, p;}"
      : "=r"(done)
      : "r"(SharedAddress(word)), "r"(parity)
      : "memory");
  return done != 0;
}
// Returns when it is; the processor lets the thread rest meanwhile.
__device__ __forceinline__ void AwaitTurn(uint64_t* word, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
        "selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(SharedAddress(word)), "r"(parity)
        : "memory");
  } while (done == 0);
}
__device__ __forceinline__ void Rest() { __nanosleep(20); }
// Copies `bytes`, announced to `word`, which they arrive at. All multiples of 16.
__device__ __forceinline__ void CopyBulk(void* to, const void* from, uint32_t bytes, uint64_t* word,
                                         uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(SharedAddress(to)),
      "l"(from), "r"(bytes), "r"(SharedAddress(word)), "l"(policy)
      : "memory");
}

// Copies 16 bytes; ArriveBehindCopies says when.
__device__ __forceinline__ void CopyAsyncOnce(void* to, const void* from, uint64_t policy) {
  asm volatile(
      "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)),
      "l"(from), "l"(policy)
      : "memory");
}
// The word does not turn over before all copies that this thread has asked for are there. Another
// arrival must be outstanding until then.
__device__ __forceinline__ void ArriveBehindCopies(uint64_t* word) {
  asm volatile("cp.async.mbarrier.arrive.shared::cta.b64 [%0];" ::"r"(SharedAddress(word))
               : "memory");
}

// Numbers that another block writes in this launch. A word is seen as a whole.
__device__ __forceinline__ uint4 LoadFresh(const uint4* from) {
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ uint32_t LoadFresh(const uint32_t* from) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(from) : "memory");
  return v;
}
__device__ __forceinline__ void StoreFresh(uint32_t* to, uint32_t word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}
__device__ __forceinline__ void StoreFresh(uint4* to, const uint4& words) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words.x),
               "r"(words.y), "r"(words.z), "r"(words.w)
               : "memory");
}
// Brings the line of `at` near, for who will read it soon.
__device__ __forceinline__ void PrefetchLine(const void* at) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_SYNC_CUH_
