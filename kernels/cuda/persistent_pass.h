// A pass of few rows as one launch: what it needs of the device, and its start. Same bits as the
// operations' own kernels.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_PASS_H_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_PASS_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/cuda/persistent_plan.h"

namespace mambad::kernels::cuda {

// Where blocks of a pass leave what they hand to each other; of one workspace, whose passes come
// one after the other.
struct PassMailbox {
  std::vector<Buffer> memory;  // the last one is in use; graphs know the others
  int64_t set_bytes = 0;
};
// Gives the program its mail. The mailbox grows where it has to, for as many rows as a pass has at
// most. False: there is no memory. May be called while a stream is captured.
bool AddressMail(PassMailbox& mailbox, PassProgram& program);

// How a launch is laid out on the current device.
struct PassLaunch {
  int blocks = 0;       // one a multiprocessor; 0: the device cannot
  int64_t shared = 0;   // bytes of shared memory that a block may have
  int ring_pieces = 0;  // 0: as many as fit, up to what is best
  int in_flight = 0;    // 0: what is best
};
PassLaunch PassLaunchOfDevice();

// Fills in what the program lacks for `launch`: the ring. False: it does not fit a block.
bool FitPass(const PassLaunch& launch, PassProgram& program);
// All blocks at once, which wait for each other. All pointers of the program are device memory.
void LaunchPass(cudaStream_t stream, const PassLaunch& launch, const PassProgram& program);

// A plan's steps and layers in device memory; returns when it is there. Empty: there is no
// memory. May be called while a stream is captured.
Buffer UploadPlan(const PassPlan& plan, PassProgram& program);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_PASS_H_
