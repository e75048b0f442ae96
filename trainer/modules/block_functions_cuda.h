// The operations of kernels/cuda/training/block.h on tensors, without gradients of their own.

#ifndef MAMBAD_TRAINER_MODULES_BLOCK_FUNCTIONS_CUDA_H_
#define MAMBAD_TRAINER_MODULES_BLOCK_FUNCTIONS_CUDA_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace mambad::trainer::cuda {

// {sum, normed}; without a delta sum is `residual` itself.
std::pair<at::Tensor, at::Tensor> NormForward(const at::Tensor& residual, const at::Tensor& delta,
                                              const at::Tensor& weight, double epsilon,
                                              at::ScalarType type);

// What is not wanted stays undefined.
struct NormWanted {
  bool input, delta, weight;
};
struct NormGradients {
  at::Tensor input, delta, weight;
};
// sum_gradient may be undefined.
NormGradients NormBackward(const at::Tensor& sum, const at::Tensor& weight,
                           const at::Tensor& normed_gradient, const at::Tensor& sum_gradient,
                           double epsilon, const NormWanted& wanted);

at::Tensor GatedNormForward(const at::Tensor& input, const at::Tensor& gate,
                            const at::Tensor& weight, int64_t groups, double epsilon);
struct GatedNormGradients {
  at::Tensor input, gate, weight;
};
GatedNormGradients GatedNormBackward(const at::Tensor& input, const at::Tensor& gate,
                                     const at::Tensor& weight, const at::Tensor& gradient,
                                     int64_t groups, double epsilon, bool wants_weight);

at::Tensor GateForward(const at::Tensor& fused, int64_t width);
// Writes the first 2 * width columns of `result`.
void GateBackward(const at::Tensor& fused, int64_t width, const at::Tensor& gradient,
                  at::Tensor& result);

// {query, key} as [M, heads, head_width].
std::vector<at::Tensor> Rotate(const at::Tensor& query, const at::Tensor& key,
                               const at::Tensor& positions, const at::Tensor& inverse_frequency,
                               bool inverse);

}  // namespace mambad::trainer::cuda

#endif  // MAMBAD_TRAINER_MODULES_BLOCK_FUNCTIONS_CUDA_H_
