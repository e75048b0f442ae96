// The launch that walks a pass: its threads' parts.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_KERNEL_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_KERNEL_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_finish.cuh"
#include "kernels/cuda/persistent_multiply.cuh"

namespace mambad::kernels::cuda {

// The one that looks out: tells the block of every exchange that is over.
__device__ inline void LookOut(const PassBlock& block) {
  const PassProgram& program = block.program;
  if (threadIdx.x % kWarp != 0) return;
  for (int i = 0; i < program.exchanges; ++i) {
    const uint32_t expected = program.expected[i];
    while (LoadAcquire(program.counts + i) < expected) {
    }
    RaiseFlag(block.Reached(), i + 1);
  }
}

// The last block to be done leaves zeros to the next launch.
__device__ inline void ResetCounts(const PassBlock& block) {
  const PassProgram& program = block.program;
  uint32_t* const before = block.Flag(2);  // how many blocks were done before
  __syncthreads();
  if (threadIdx.x == 0) *before = atomicAdd(program.counts + program.exchanges, 1u);
  __syncthreads();
  if (*before + 1 < gridDim.x) return;
  for (int i = threadIdx.x; i <= program.exchanges; i += kPassThreads) program.counts[i] = 0;
}

__device__ inline int RowsOfLogits(const Batch& batch) {
  int count = 0;
  while (count < batch.logit_count && batch.logit_rows[count] >= 0) ++count;
  return count;
}

// memory: PassMemory's bytes.
__device__ inline void WalkAll(const PassProgram& program, unsigned char* memory) {
  const Batch& batch = program.batch;
  const PassBlock block{program, memory, PassMemory(program),
                        min(batch.row_begin[batch.sequences], batch.rows), RowsOfLogits(batch)};
  const int thread = threadIdx.x;
  if (thread < 2) *block.Flag(thread) = 0;
  for (int i = thread; i < kEighths * program.ring_pieces; i += kPassThreads) {
    InitArrivals(block.At<uint64_t>(block.place.arrivals) + i, kWarp);
  }
  __syncthreads();
  if (thread < kMultipliers) {
    PassMultiplier(block).Walk();
  } else if (thread < kMultipliers + kFinishers) {
    PassFinisher(block).Walk();
  } else {
    LookOut(block);
  }
  ResetCounts(block);
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_KERNEL_CUH_
