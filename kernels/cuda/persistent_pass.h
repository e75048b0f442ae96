// A pass of few rows as one launch: what it needs of the device (sm_90 or newer), and its start.
// Same bits as the operations' own kernels.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_PASS_H_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_PASS_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/cuda/persistent_plan.h"

namespace mambad::kernels::cuda {

// Bytes of device memory where blocks of a pass leave what they hand to each other; of one
// workspace, whose passes come one after the other. 0: there are no passes.
int64_t MailBytes(const WorkspaceShape& shape);
// Before the first pass; nothing where there are no passes.
void EmptyMail(cudaStream_t stream, const Buffer& mail);
// Gives the program its mail. False: it is too small.
bool AddressMail(const Buffer& mail, PassProgram& program);

// How a launch is laid out on the current device.
struct PassLaunch {
  int blocks = 0;      // one a multiprocessor; 0: the device cannot
  int64_t shared = 0;  // bytes of shared memory that a block may have
  // 0: what is best (PassProgram).
  int ring_pieces = 0, in_flight = 0;
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
