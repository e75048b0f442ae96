// Products of a warpgroup, four warps of which the first's number is a multiple of four, that
// multiply in step: of sm_90a alone, where MAMBAD_HAS_WARPGROUP_PRODUCTS is defined.

#ifndef MAMBAD_KERNELS_CUDA_WARPGROUP_CUH_
#define MAMBAD_KERNELS_CUDA_WARPGROUP_CUH_

#include <cstdint>

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define MAMBAD_HAS_WARPGROUP_PRODUCTS

namespace mambad::kernels::cuda {

#define MAMBAD_SUMS8(i)                                                                      \
  "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), "+f"(sums[i + 4]), \
      "+f"(sums[i + 5]), "+f"(sums[i + 6]), "+f"(sums[i + 7])

// sums [64, kTokens] += left [64, 16] right [16, kTokens], bf16 in, float32 sums, in the bits of
// MultiplyAdd (ptx.cuh). A warp brings 16 rows of left, as there, and gets their sums: of tokens
// 8 j .. 8 j + 7 what MultiplyAdd's sums are, in sums [4 j, 4 j + 4). `right`: RightOperand. Begins
// only: until WaitForProducts neither registers nor shared memory that it names may be written, nor
// sums read.
template <int kTokens>
struct WarpgroupTile;

template <>
struct WarpgroupTile<16> {
  __device__ __forceinline__ static void MultiplyAdd(const uint4& left, uint64_t right,
                                                     float (&sums)[8]) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %13, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7}, "
        "{%8, %9, %10, %11}, %12, add, 1, 1, 0;\n}"
        : MAMBAD_SUMS8(0)
        : "r"(left.x), "r"(left.y), "r"(left.z), "r"(left.w), "l"(right), "r"(1));
  }
};

template <>
struct WarpgroupTile<32> {
  __device__ __forceinline__ static void MultiplyAdd(const uint4& left, uint64_t right,
                                                     float (&sums)[16]) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %21, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "{%16, %17, %18, %19}, %20, add, 1, 1, 0;\n}"
        : MAMBAD_SUMS8(0), MAMBAD_SUMS8(8)
        : "r"(left.x), "r"(left.y), "r"(left.z), "r"(left.w), "l"(right), "r"(1));
  }
};

template <>
struct WarpgroupTile<64> {
  __device__ __forceinline__ static void MultiplyAdd(const uint4& left, uint64_t right,
                                                     float (&sums)[32]) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
        "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, add, 1, 1, 0;\n}"
        : MAMBAD_SUMS8(0), MAMBAD_SUMS8(8), MAMBAD_SUMS8(16), MAMBAD_SUMS8(24)
        : "r"(left.x), "r"(left.y), "r"(left.z), "r"(left.w), "l"(right), "r"(1));
  }
};

template <>
struct WarpgroupTile<96> {
  __device__ __forceinline__ static void MultiplyAdd(const uint4& left, uint64_t right,
                                                     float (&sums)[48]) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %53, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
        "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
        "%47}, "
        "{%48, %49, %50, %51}, %52, add, 1, 1, 0;\n}"
        : MAMBAD_SUMS8(0), MAMBAD_SUMS8(8), MAMBAD_SUMS8(16), MAMBAD_SUMS8(24), MAMBAD_SUMS8(32),
          MAMBAD_SUMS8(40)
        : "r"(left.x), "r"(left.y), "r"(left.z), "r"(left.w), "l"(right), "r"(1));
  }
};

template <>
struct WarpgroupTile<128> {
  __device__ __forceinline__ static void MultiplyAdd(const uint4& left, uint64_t right,
                                                     float (&sums)[64]) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
        "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
        "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63}, "
        "{%64, %65, %66, %67}, %68, add, 1, 1, 0;\n}"
        : MAMBAD_SUMS8(0), MAMBAD_SUMS8(8), MAMBAD_SUMS8(16), MAMBAD_SUMS8(24), MAMBAD_SUMS8(32),
          MAMBAD_SUMS8(40), MAMBAD_SUMS8(48), MAMBAD_SUMS8(56)
        : "r"(left.x), "r"(left.y), "r"(left.z), "r"(left.w), "l"(right), "r"(1));
  }
};

template <>
struct WarpgroupTile<160> {
  __device__ __forceinline__ static void MultiplyAdd(const uint4& left, uint64_t right,
                                                     float (&sums)[80]) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %85, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n160k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, "
        "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
        "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, "
        "%77, %78, %79}, "
        "{%80, %81, %82, %83}, %84, add, 1, 1, 0;\n}"
        : MAMBAD_SUMS8(0), MAMBAD_SUMS8(8), MAMBAD_SUMS8(16), MAMBAD_SUMS8(24), MAMBAD_SUMS8(32),
          MAMBAD_SUMS8(40), MAMBAD_SUMS8(48), MAMBAD_SUMS8(56), MAMBAD_SUMS8(64), MAMBAD_SUMS8(72)
        : "r"(left.x), "r"(left.y), "r"(left.z), "r"(left.w), "l"(right), "r"(1));
  }
};

#undef MAMBAD_SUMS8

// Of shared memory [tokens][64 columns], bf16, from a multiple of 1024 bytes on, in which piece i
// of 16 bytes of token n lies in place i ^ n % 8 of its eight: four steps of 16 columns. `address`:
// of its begin, plus 32 bytes a step.
__device__ __forceinline__ uint64_t RightOperand(uint32_t address) {
  constexpr uint64_t kEightTokens = 1024 / 16, kSwizzleOf128Bytes = 1;
  return (address & 0x3ffff) >> 4 | uint64_t{1} << 16 | kEightTokens << 32 |
         kSwizzleOf128Bytes << 62;
}

// Registers that were written before are seen by products that begin behind it.
__device__ __forceinline__ void BeginProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// All committed groups but the last kLeft are done.
template <int kLeft>
__device__ __forceinline__ void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}

// The compiler reads sums behind a wait that it does not see them depend on.
template <int kSums>
__device__ __forceinline__ void ReadBehind(float (&sums)[kSums]) {
#pragma unroll
  for (int i = 0; i < kSums; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// All threads of a warpgroup hand registers back, or take more, so that each has kRegisters.
template <int kRegisters>
__device__ __forceinline__ void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// The four warps of a warpgroup meet; `number`, 1 .. 15, is theirs alone.
__device__ __forceinline__ void MeetWarpgroup(int number) {
  asm volatile("bar.sync %0, 128;" ::"r"(number) : "memory");
}

// ---- blocks of a cluster ----

// All threads of a cluster that have not ended arrive, and wait for each other: what they wrote to
// their blocks' shared memory before is seen behind the wait, in all of them.
__device__ __forceinline__ void ArriveAtCluster() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void WaitForCluster() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// 16 bytes of block `block` of the cluster, from where `from` lies in this block's shared memory.
__device__ __forceinline__ float4 LoadOfBlock(const float4* from, int block) {
  uint32_t at;
  float4 v;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(at)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from))), "r"(block));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(at)
               : "memory");
  return v;
}

// ---- what brings right operands ----

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// A barrier in shared memory whose phase ends when `arrivals` have arrived and all bytes expected
// have come. One thread initializes, all meet, then it is used.
__device__ __forceinline__ void InitializeBarrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)),
               "r"(arrivals)
               : "memory");
}
__device__ __forceinline__ void PublishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}
// Waits for the end of the barrier's phases number parity, parity + 2, ...
__device__ __forceinline__ void WaitForPhase(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
}
// Arrives, and copies `bytes`, a multiple of 16, into shared memory, which the phase waits for.
__device__ __forceinline__ void BringBytes(void* to, const void* from, int bytes,
                                           uint64_t* barrier) {
  const uint32_t at = SharedAddress(barrier);
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(SharedAddress(to)),
      "l"(from), "r"(bytes), "r"(at)
      : "memory");
}

}  // namespace mambad::kernels::cuda

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

#endif  // MAMBAD_KERNELS_CUDA_WARPGROUP_CUH_
