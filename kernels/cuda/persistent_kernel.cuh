// The launch that walks a pass: its threads' parts.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_KERNEL_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_KERNEL_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_clean.cuh"
#include "kernels/cuda/persistent_finish.cuh"
#include "kernels/cuda/persistent_multiply.cuh"
#include "kernels/cuda/persistent_ring.cuh"

namespace mambad::kernels::cuda {

// The set of mail of this launch; empties the other one, which the launch before has used.
__device__ inline unsigned char* TakeSet(const PassProgram& program) {
  const uint32_t set = program.mail_state->set;
  uint4* const other = reinterpret_cast<uint4*>(program.mail + (1 - set) * program.mail_set);
  const uint32_t count = program.mail_set / sizeof(uint4);
  for (uint32_t i = blockIdx.x * kPassThreads + threadIdx.x; i < count;
       i += gridDim.x * kPassThreads) {
    other[i] = {kUnset, kUnset, kUnset, kUnset};
  }
  return program.mail + set * program.mail_set;
}
// The last block to be done tells the next launch.
__device__ inline void LeaveSet(const PassProgram& program) {
  __syncthreads();
  PassMailState& state = *program.mail_state;
  if (threadIdx.x > 0 || atomicAdd(&state.done, 1u) + 1 < gridDim.x) return;
  state.set = 1 - state.set;
  state.done = 0;
}

// Brings what all threads look at again and again into shared memory: a look at a count of device
// memory empties the cache that it would stand in. Threads [0, kPassThreads).
__device__ inline void CopyProgram(const PassBlock& block) {
  const PassProgram& program = block.program;
  const auto copy = [](void* to, const void* from, size_t bytes) {
    for (size_t i = threadIdx.x; i < bytes / 4; i += kPassThreads) {
      static_cast<uint32_t*>(to)[i] = static_cast<const uint32_t*>(from)[i];
    }
  };
  copy(block.At<void>(block.place.steps), program.steps, (kLayerSteps + 1) * sizeof(PassStep));
  copy(block.At<void>(block.place.layers), program.layers, program.layer_count * sizeof(PassLayer));
  PassBatch& own = *block.At<PassBatch>(block.place.batch);
  const Batch& batch = program.batch;
  int array = 0;
  const auto take = [&](const int32_t* Batch::*member, int count) {
    int32_t* const numbers = own.numbers[array++];
    if (static_cast<int>(threadIdx.x) < count) numbers[threadIdx.x] = (batch.*member)[threadIdx.x];
    if (threadIdx.x == 0) own.batch.*member = numbers;
  };
  if (threadIdx.x == 0) own.batch = batch;
  take(&Batch::row_begin, batch.sequences + 1);
  take(&Batch::logit_rows, batch.logit_count);
  take(&Batch::slot, batch.sequences);
  take(&Batch::position, batch.sequences);
  take(&Batch::replay, batch.sequences);
  take(&Batch::fold, batch.sequences);
  take(&Batch::keep_from, batch.sequences);
  take(&Batch::keep_at, batch.sequences);
  take(&Batch::resume, batch.sequences);
}

// Words at which the block's warps meet.
__device__ inline void InitMeetings(const PassBlock& block) {
  const int thread = threadIdx.x;
  if (thread < block.program.ring_pieces) {
    InitArrivals(block.PieceCame(thread), 1);
    InitArrivals(block.PieceTaken(thread), 1);
  }
  if (thread < kFetchers) *block.Asked(thread) = 0;
  if (thread < kPassMeetings) {
    const int taken = kFinishers / kWarp;
    InitArrivals(block.Meeting(thread), thread < kHeadTaken     ? kEighths
                                        : thread < kMailCleaned ? taken
                                                                : 1);
  }
  PublishArrivals();
}

// memory: as program.place says.
__device__ inline void WalkAll(const PassProgram& program, unsigned char* memory) {
  PassBlock block{program, memory, program.place};
  const int thread = threadIdx.x;
  InitMeetings(block);
  CopyProgram(block);
  block.mail = TakeSet(program);
  __syncthreads();
  const Batch& batch = block.batch();
  block.there = min(batch.row_begin[batch.sequences], batch.rows);
#pragma unroll 1
  while (block.logits < batch.logit_count && batch.logit_rows[block.logits] >= 0) ++block.logits;
  block.FindParts();
  __syncthreads();
  // A thread has 96 at first; what others leave is for the eight warps that finish.
  if (thread >= kMultipliers + kFinishers) {
    LeaveRegisters<64>();
    const int which = (thread - kMultipliers - kFinishers) / kWarp;
    if (which == kFetchers) {
      MailCleaner(block).Walk();
    } else {
      WeightFetcher(block, which).Walk();
    }
  } else if (thread < kMultipliers) {
    LeaveRegisters<88>();
    PassMultiplier(block).Walk();
  } else {
    AddRegisters<120>();
    PassFinisher finisher(block);
    finisher.SendFirst();
    finisher.Walk();
  }
  LeaveSet(program);
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_KERNEL_CUH_
