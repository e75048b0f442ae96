// The launch that walks a pass: its threads' parts.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_KERNEL_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_KERNEL_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_finish.cuh"
#include "kernels/cuda/persistent_multiply.cuh"

namespace mambad::kernels::cuda {

// The set of mail of this launch; empties the other one, which the launch before has used.
__device__ inline unsigned char* TakeMail(const PassProgram& program) {
  const PassMailState& state = *program.mail_state;
  const uint32_t set = state.set, used = state.used[1 - set];
  uint4* const other = reinterpret_cast<uint4*>(program.mail + (1 - set) * program.mail_set);
  for (uint32_t i = blockIdx.x * kPassThreads + threadIdx.x; i < used;
       i += gridDim.x * kPassThreads) {
    other[i] = {kUnset, kUnset, kUnset, kUnset};
  }
  return program.mail + set * program.mail_set;
}
// The last block to be done tells the next launch.
__device__ inline void LeaveMail(const PassProgram& program) {
  __syncthreads();
  PassMailState& state = *program.mail_state;
  if (threadIdx.x > 0 || atomicAdd(&state.done, 1u) + 1 < gridDim.x) return;
  state.used[state.set] = (program.layer_count + 1) * (program.layer_mail.end / sizeof(uint4));
  state.used[1 - state.set] = 0;
  state.set = 1 - state.set;
  state.done = 0;
}

// The residual before the first layer, each block a part of it.
__device__ inline void SendResidual(const PassBlock& block) {
  const RowsView& residual = block.program.residual;
  const int columns = block.program.residual_steps * kTileColumns;
  for (int i = blockIdx.x * kPassThreads + threadIdx.x; i < block.there * columns;
       i += gridDim.x * kPassThreads) {
    const int row = i / columns, column = i % columns;
    const float number =
        column < residual.columns ? residual.data[row * residual.stride + column] : 0.0f;
    block.Send(block.ResidualBefore(0, row) + column, __float_as_uint(number));
  }
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
  copy(block.At<void>(block.place.steps), program.steps, program.step_count * sizeof(PassStep));
  copy(block.At<void>(block.place.layers), program.layers, program.layer_count * sizeof(PassMamba));
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

// memory: as program.place says.
__device__ inline void WalkAll(const PassProgram& program, unsigned char* memory) {
  PassBlock block{program, memory, program.place};
  const int thread = threadIdx.x;
  block.mail = TakeMail(program);
  CopyProgram(block);
  if (thread == 0) *block.Selections() = 0;
  for (int i = thread; i < kEighths * program.ring_pieces; i += kPassThreads) {
    InitArrivals(block.At<uint64_t>(block.place.arrivals) + i, kWarp);
  }
  __syncthreads();
  const Batch& batch = block.batch();
  block.there = min(batch.row_begin[batch.sequences], batch.rows);
#pragma unroll 1
  while (block.logits < batch.logit_count && batch.logit_rows[block.logits] >= 0) ++block.logits;
  SendResidual(block);
  if (thread < kMultipliers) {
    PassMultiplier(block).Walk();
  } else {
    PassFinisher(block).Walk();
  }
  LeaveMail(program);
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_KERNEL_CUH_
