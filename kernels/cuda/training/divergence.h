// Softmax, divergence and their gradient for rows of logits, in one launch.

#ifndef MAMBAD_KERNELS_CUDA_TRAINING_DIVERGENCE_H_
#define MAMBAD_KERNELS_CUDA_TRAINING_DIVERGENCE_H_

#include <cstdint>

struct CUstream_st;

namespace mambad::kernels::cuda {

// With z a row of `student`, p = softmax(teacher / T), q = softmax(z / T), the loss of a row is
//   divergence_weight T^2 KL(p || q), or, with `acceptance`,
//   lambda KL(p || q) + (1 - lambda)(1 - alpha), alpha = sum min(p, q), lambda = exp(-3 alpha) held
//   constant,
// plus cross_entropy_weight * -log softmax(z)[target]. Inside, everything is fp32.
struct DivergenceArguments {
  void* student = nullptr;            // bf16 [rows, vocabulary]; becomes row_weight * d loss / d z
  const void* teacher = nullptr;      // bf16 [rows, vocabulary], or null
  const int64_t* targets = nullptr;   // [rows], or null
  const float* row_weight = nullptr;  // [rows]
  float* results = nullptr;           // [rows, 5]: loss, KL, cross entropy, arg max agrees, alpha
  int64_t rows = 0, vocabulary = 0;
  float divergence_weight = 1, cross_entropy_weight = 0, temperature = 1;
  bool acceptance = false;
  bool wants_gradient = true;  // false: `student` is left alone
};

// Queued on `stream`. Deterministic. Null, or what is wrong with the arguments or the launch.
const char* DivergenceGradient(const DivergenceArguments& arguments, CUstream_st* stream);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TRAINING_DIVERGENCE_H_
