// The recurrent operations of kernels/training_scan.h as differentiable functions of tensors: what
// they compute, and in which order, is said there. The device of the first argument decides which
// backend runs.
//
// Activations are [M, columns], M = rows * tokens of the batch, in the batch's order; columns lie
// side by side, rows may be apart (slices of a fused product). fp32 and fp64 on the CPU, bf16 and
// fp32 on CUDA; parameters fp32 (fp64 for fp64). Results are contiguous. Nothing here waits for a
// device. Calls from several threads take turns on the CPU.

#ifndef MAMBAD_TRAINER_SCAN_FUNCTION_H_
#define MAMBAD_TRAINER_SCAN_FUNCTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>

namespace mambad::trainer {

// SiLU of the causal depthwise convolution: input [M, channels], weight [channels, 1, taps], bias
// [channels] or undefined; document_start bool [rows, tokens].
at::Tensor ConvolutionSilu(const at::Tensor& input, const at::Tensor& weight,
                           const at::Tensor& bias, const at::Tensor& document_start);

// y [M, I] of Mamba-1, gated. x, delta and z [M, I] (z undefined: no gate), b [M, source groups x
// N], c [M, groups x N]; a_log [I, N], skip and dt_bias [I].
struct SelectiveScanInputs {
  at::Tensor x, delta, b, c, z, a_log, skip, dt_bias;
};
at::Tensor SelectiveScan(const SelectiveScanInputs& inputs, const at::Tensor& document_start);

// y [M, heads x P] of Mamba-2, before the gate. x [M, source heads x P], b [M, source groups x N],
// c [M, groups x N], dt [M, heads]; a_log, skip, dt_bias [heads].
struct Mamba2ScanInputs {
  at::Tensor x, b, c, dt, a_log, skip, dt_bias;
  int64_t head_width = 0, state_size = 0;  // P, N
  double dt_minimum = 0, dt_maximum = std::numeric_limits<double>::infinity();
};
at::Tensor Mamba2Scan(const Mamba2ScanInputs& inputs, const at::Tensor& document_start);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_SCAN_FUNCTION_H_
