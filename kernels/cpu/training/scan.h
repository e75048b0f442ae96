// The operations of kernels/training_scan.h on the CPU: float and double; a pool's threads share
// the channels and heads, so that few long sequences keep all of them busy.
//
// Each operation returns null, or what is wrong with its arguments (then nothing was written).
// Memory is the processor's; results are complete when a call returns. One call at a time uses a
// pool. Checkpoints: the state before every kCheckpointTokens-th token (kernels/README.md).

#ifndef MAMBAD_KERNELS_CPU_TRAINING_SCAN_H_
#define MAMBAD_KERNELS_CPU_TRAINING_SCAN_H_

#include "kernels/cpu/thread_pool.h"
#include "kernels/training_scan.h"

namespace mambad::kernels::cpu {

// The convolution needs no workspace here. Sizes for a pool of `threads`; checkpoints may be null
// in a forward pass whose gradient nobody wants.
TrainingWorkspaceBytes WorkspaceBytes(const SelectiveScan& problem, int threads);
TrainingWorkspaceBytes WorkspaceBytes(const Mamba2Scan& problem, int threads);

const char* CausalConvolutionForward(const CausalConvolution& problem, const OutputRows& output,
                                     ThreadPool& pool);
const char* CausalConvolutionBackward(const CausalConvolution& problem,
                                      const CausalConvolutionGradient& gradient, ThreadPool& pool);

const char* SelectiveScanForward(const SelectiveScan& problem, const OutputRows& y,
                                 void* checkpoints, void* scratch, ThreadPool& pool);
const char* SelectiveScanBackward(const SelectiveScan& problem,
                                  const SelectiveScanGradient& gradient, const void* checkpoints,
                                  void* scratch, ThreadPool& pool);

const char* Mamba2ScanForward(const Mamba2Scan& problem, const OutputRows& y, void* checkpoints,
                              void* scratch, ThreadPool& pool);
const char* Mamba2ScanBackward(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient,
                               const void* checkpoints, void* scratch, ThreadPool& pool);

}  // namespace mambad::kernels::cpu

#endif  // MAMBAD_KERNELS_CPU_TRAINING_SCAN_H_
