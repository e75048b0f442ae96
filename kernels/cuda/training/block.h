// The operations of kernels/training_block.h on a CUDA device.

#ifndef MAMBAD_KERNELS_CUDA_TRAINING_BLOCK_H_
#define MAMBAD_KERNELS_CUDA_TRAINING_BLOCK_H_

#include "kernels/training_block.h"

struct CUstream_st;

namespace mambad::kernels::cuda {

// Each is queued on `stream` of the current device and returns at once: null, or what is wrong with
// the arguments or the launch. All memory is the device's and stays the caller's until the stream
// has passed. Sums run in an order that depends on the sizes alone: the same inputs give the same
// bits.
const char* NormForward(const NormForwardArguments& arguments, CUstream_st* stream);
const char* NormBackward(const NormBackwardArguments& arguments, CUstream_st* stream);
const char* GateForward(const GateForwardArguments& arguments, CUstream_st* stream);
const char* GateBackward(const GateBackwardArguments& arguments, CUstream_st* stream);
const char* Rotate(const RotaryArguments& arguments, CUstream_st* stream);
const char* GatedNormForward(const GatedNormForwardArguments& arguments, CUstream_st* stream);
const char* GatedNormBackward(const GatedNormBackwardArguments& arguments, CUstream_st* stream);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TRAINING_BLOCK_H_
