// A pass of few rows as one launch: what it needs of the device, and its start. Same bits as the
// operations' own kernels.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_PASS_H_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_PASS_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/buffer.h"
#include "kernels/cuda/packing.h"
#include "kernels/cuda/persistent_plan.h"

namespace mambad::kernels::cuda {

// What blocks of a pass hand to each other; of one workspace.
struct PassScratch {
  Buffer x, gated;  // operands of kPassRows rows
  Buffer parts;     // eighths of select
  int64_t max_inner = 0, max_selection = 0;
};
PassScratch CreatePassScratch(const WorkspaceShape& shape, const Allocate& allocate);

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

// A plan in device memory: steps, layers, counts; returns when it is there. Empty: there is no
// memory. May be called while a stream is captured.
Buffer UploadPlan(const PassPlan& plan, PassProgram& program);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_PASS_H_
