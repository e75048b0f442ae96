// What a block does between its products and recurrences, as differentiable functions: norms, gates
// and rotation. Formulas: kernels/training_block.h, whose kernels run on CUDA; LibTorch operations
// on the CPU.
//
// Activations are [M, columns] with columns side by side; rows may be apart. "Wide" is fp32, or
// fp64 for fp64 activations. Results are contiguous.

#ifndef MAMBAD_TRAINER_MODULES_BLOCK_FUNCTIONS_H_
#define MAMBAD_TRAINER_MODULES_BLOCK_FUNCTIONS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace mambad::trainer {

at::ScalarType WideType(at::ScalarType type);

struct NormedSum {
  at::Tensor sum;     // wide [M, d]: residual + delta
  at::Tensor normed;  // `type` [M, d]: RMSNorm(sum) * weight
};
// residual wide [M, d]; delta [M, d] of `type` or undefined (then sum is residual itself); weight
// wide [d].
NormedSum AddAndNorm(const at::Tensor& residual, const at::Tensor& delta, const at::Tensor& weight,
                     double epsilon, at::ScalarType type);

// RMSNorm(input * SiLU(gate)) * weight in `groups` parts of [M, I]; weight wide [I].
at::Tensor GatedNorm(const at::Tensor& input, const at::Tensor& gate, const at::Tensor& weight,
                     int64_t groups, double epsilon);

// SiLU(gate) * up of a fused product whose first columns are gate [width] and up [width].
at::Tensor GatedProduct(const at::Tensor& fused, int64_t width);

// Rotary position embedding of some positions. Made once and used in every layer.
struct Rotation {
  at::Tensor positions;          // int64 [M]
  at::Tensor inverse_frequency;  // fp64 [head_width / 2]
  at::Tensor cosine, sine;       // wide [M, 1, head_width / 2]; undefined on CUDA
};
// Dynamic scaling, as kernels::RotaryGrowth; CPU only.
struct RotationGrowth {
  int64_t context = 0;  // 0: none
  double factor = 1;
};
Rotation MakeRotation(const at::Tensor& positions, const at::Tensor& inverse_frequency,
                      at::ScalarType type, const RotationGrowth& growth = {});
// query [M, heads x head_width] and key likewise; [M, heads, head_width] each.
std::pair<at::Tensor, at::Tensor> Rotate(const at::Tensor& query, const at::Tensor& key,
                                         const Rotation& rotation);

// input [M, heads x head_width] with each head RMS-normalised by weight, wide [head_width].
at::Tensor NormHeads(const at::Tensor& input, const at::Tensor& weight, double epsilon);

// product [M, columns] plus the biases side by side, in the product's type. The product may have
// further columns, as FusedProduct's; they stay as they are.
at::Tensor AddBiases(const at::Tensor& product, const std::vector<at::Tensor>& biases);

// input [M, d] times the matrices [rows_i, d] transposed, as one product: [M, rows_0 + rows_1 ...],
// on CUDA with further columns of zeros up to a multiple of 16, so that rows begin on whole words.
at::Tensor FusedProduct(const at::Tensor& input, const std::vector<at::Tensor>& matrices);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_MODULES_BLOCK_FUNCTIONS_H_
