// What a block does between its matrix products when it is trained: norms, gates and rotation, each
// forward and backward. One contract; on the GPU kernels/cuda/training/block.h implements it, on
// the CPU the trainer composes LibTorch operations.
//
// Everywhere: row-major in device memory, `type` is the element type of activations (kFloat32 or
// kBFloat16), arithmetic inside is fp32, weights and their gradients are fp32. Gradients are
// written, not added to. Strides count elements from one row (token) to the next. Any width and
// stride works; rows that begin on 16 bytes (pointers so aligned, widths and strides multiples of
// 8) are several times as fast. An output may lie exactly over an input of the same type and stride
// unless said otherwise, and may not overlap it in any other way.

#ifndef MAMBAD_KERNELS_TRAINING_BLOCK_H_
#define MAMBAD_KERNELS_TRAINING_BLOCK_H_

#include <cstdint>

#include "kernels/tensor.h"

namespace mambad::kernels {

// h = input + delta;  output = h / sqrt(mean(h^2) + epsilon) * weight.
// The residual stream (input, sum) may be wider than the activations (delta, output).
struct NormForwardArguments {
  int64_t rows = 0, width = 0;
  float epsilon = 1e-5f;
  ElementType stream_type = ElementType::kFloat32;
  ElementType type = ElementType::kBFloat16;
  const void* input = nullptr;    // stream_type [rows, width]
  const void* delta = nullptr;    // type [rows, width], or null: 0
  void* sum = nullptr;            // stream_type [rows, width]: h; null: not wanted; may be input
  const float* weight = nullptr;  // [width]
  void* output = nullptr;         // type [rows, width]
};

// Of a loss that sees h by itself (sum_gradient) and through the norm (output_gradient).
struct NormBackwardArguments {
  int64_t rows = 0, width = 0;
  float epsilon = 1e-5f;
  ElementType stream_type = ElementType::kFloat32;
  ElementType type = ElementType::kBFloat16;
  const void* sum = nullptr;              // stream_type: h as the forward pass normalised it
  const float* weight = nullptr;          // [width]
  const void* output_gradient = nullptr;  // type [rows, width]
  const void* sum_gradient = nullptr;     // stream_type [rows, width], or null: 0
  void* input_gradient = nullptr;    // stream_type: of h; may be sum_gradient; null: not wanted
  void* delta_gradient = nullptr;    // type: the same numbers; null: not wanted
  float* weight_gradient = nullptr;  // [width]; null: not wanted
  float* workspace = nullptr;        // NormWorkspace() floats; null without weight_gradient
};

// output = SiLU(gate) * up, SiLU(a) = a / (1 + exp(-a)).
struct GateForwardArguments {
  int64_t rows = 0, width = 0;
  ElementType type = ElementType::kBFloat16;
  const void* gate = nullptr;
  const void* up = nullptr;
  void* output = nullptr;
  int64_t gate_stride = 0, up_stride = 0, output_stride = 0;
};

struct GateBackwardArguments {
  int64_t rows = 0, width = 0;
  ElementType type = ElementType::kBFloat16;
  const void* gate = nullptr;
  const void* up = nullptr;
  const void* output_gradient = nullptr;
  void* gate_gradient = nullptr;
  void* up_gradient = nullptr;
  int64_t gate_stride = 0, up_stride = 0, output_stride = 0;  // output_stride: of output_gradient
  int64_t gate_gradient_stride = 0, up_gradient_stride = 0;
};

// One tensor of heads to rotate: token t begins at input + t * input_stride, its heads lie side by
// side.
struct RotaryOperand {
  const void* input = nullptr;  // null: nothing to do
  void* output = nullptr;
  int64_t input_stride = 0, output_stride = 0;
  int64_t heads = 0;
};

// Rotate-half form: with angle = position * inverse_frequency[i], the pair (a, b) of elements i and
// i + head_width / 2 becomes (a cos - b sin, b cos + a sin). The backward pass is the same call on
// the gradients with `inverse`, which turns the other way. Angles are formed and reduced in double.
struct RotaryArguments {
  int64_t tokens = 0, head_width = 0;  // head_width even
  ElementType type = ElementType::kBFloat16;
  RotaryOperand query, key;
  const int64_t* positions = nullptr;         // [tokens]
  const double* inverse_frequency = nullptr;  // [head_width / 2], device memory
  bool inverse = false;
};

// v = input * SiLU(gate), and in each of `groups` parts of width / groups numbers
//   output = v / sqrt(mean(v^2) + epsilon) * weight.
struct GatedNormForwardArguments {
  int64_t rows = 0, width = 0, groups = 1;
  float epsilon = 1e-5f;
  ElementType type = ElementType::kBFloat16;
  const void* input = nullptr;
  const void* gate = nullptr;
  const float* weight = nullptr;  // [width]
  void* output = nullptr;
  int64_t input_stride = 0, gate_stride = 0, output_stride = 0;
};

struct GatedNormBackwardArguments {
  int64_t rows = 0, width = 0, groups = 1;
  float epsilon = 1e-5f;
  ElementType type = ElementType::kBFloat16;
  const void* input = nullptr;
  const void* gate = nullptr;
  const float* weight = nullptr;  // [width]
  const void* output_gradient = nullptr;
  void* input_gradient = nullptr;
  void* gate_gradient = nullptr;
  int64_t input_stride = 0, gate_stride = 0,
          output_stride = 0;  // output_stride: of output_gradient
  int64_t input_gradient_stride = 0, gate_gradient_stride = 0;
  float* weight_gradient = nullptr;  // [width]; null: not wanted
  float* workspace = nullptr;        // NormWorkspace() floats; null without weight_gradient
};

// Floats of workspace that a backward norm with a weight gradient asks for: this many partial sums
// of it at most.
inline constexpr int64_t kNormPartials = 264;
inline int64_t NormWorkspace(int64_t rows, int64_t width) {
  return (rows < kNormPartials ? rows : kNormPartials) * width;
}

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_TRAINING_BLOCK_H_
