// The operations of kernels/training_scan.h on a CUDA device: float and bf16 activations.
//
// Each is queued on `stream` of the current device and returns at once: null, or what is wrong with
// the arguments or the launch (then nothing was written). All memory is the device's and stays the
// caller's until the stream has passed; `scratch` may be given to the next call on the same stream.
// Rows that begin on 16 bytes (pointers so aligned, strides and column counts multiples of 8) are
// faster.

#ifndef MAMBAD_KERNELS_CUDA_TRAINING_SCAN_H_
#define MAMBAD_KERNELS_CUDA_TRAINING_SCAN_H_

#include "kernels/training_scan.h"

struct CUstream_st;

namespace mambad::kernels::cuda {

// Sizes beyond what the header says: the state sizes and head widths that these kernels hold.
inline constexpr int64_t kMaxMamba2State = 256;  // state_size and head_width
inline constexpr int64_t kMaxSelectiveState = 64;

// Checkpoints may be null in a forward pass whose gradient nobody wants.
TrainingWorkspaceBytes WorkspaceBytes(const CausalConvolution& problem);
TrainingWorkspaceBytes WorkspaceBytes(const SelectiveScan& problem);
TrainingWorkspaceBytes WorkspaceBytes(const Mamba2Scan& problem);

const char* CausalConvolutionForward(const CausalConvolution& problem, const OutputRows& output,
                                     CUstream_st* stream);
const char* CausalConvolutionBackward(const CausalConvolution& problem,
                                      const CausalConvolutionGradient& gradient, void* scratch,
                                      CUstream_st* stream);

const char* SelectiveScanForward(const SelectiveScan& problem, const OutputRows& y,
                                 void* checkpoints, void* scratch, CUstream_st* stream);
const char* SelectiveScanBackward(const SelectiveScan& problem,
                                  const SelectiveScanGradient& gradient, const void* checkpoints,
                                  void* scratch, CUstream_st* stream);

const char* Mamba2ScanForward(const Mamba2Scan& problem, const OutputRows& y, void* checkpoints,
                              void* scratch, CUstream_st* stream);
const char* Mamba2ScanBackward(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient,
                               const void* checkpoints, void* scratch, CUstream_st* stream);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TRAINING_SCAN_H_
