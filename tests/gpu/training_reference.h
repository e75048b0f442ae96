// What the training kernels compute, in double from the formulas of kernels/training_scan.h and
// kernels/training_block.h, one loop after the other. Arrays are row-major without gaps.

#ifndef MAMBAD_TESTS_GPU_TRAINING_REFERENCE_H_
#define MAMBAD_TESTS_GPU_TRAINING_REFERENCE_H_

#include <cstdint>
#include <vector>

namespace mambad::gpu_check {

using Numbers = std::vector<double>;

// d loss / d h, and of the weight, for h / sqrt(mean(h^2) + epsilon) * weight in groups.
struct NormResult {
  Numbers output, input_gradient, weight_gradient;
};
NormResult ReferenceNorm(const Numbers& h, const Numbers& weight, const Numbers& output_gradient,
                         int64_t rows, int64_t width, int64_t groups, double epsilon);

struct GateResult {
  Numbers output, gate_gradient, up_gradient;
};
GateResult ReferenceGate(const Numbers& gate, const Numbers& up, const Numbers& output_gradient);

// input * SiLU(gate), then the norm.
struct GatedNormResult {
  Numbers output, input_gradient, gate_gradient, weight_gradient;
};
GatedNormResult ReferenceGatedNorm(const Numbers& input, const Numbers& gate, const Numbers& weight,
                                   const Numbers& output_gradient, int64_t rows, int64_t width,
                                   int64_t groups, double epsilon);

Numbers ReferenceRotation(const Numbers& input, const std::vector<int64_t>& positions,
                          const Numbers& inverse_frequency, int64_t heads, int64_t width,
                          bool inverse);

struct Documents {
  int64_t sequences = 0, tokens = 0;
  std::vector<uint8_t> start;  // [sequences, tokens]
  int64_t rows() const { return sequences * tokens; }
  bool Starts(int64_t sequence, int64_t token) const {
    return token == 0 || start[sequence * tokens + token] != 0;
  }
};

struct ConvolutionResult {
  Numbers output, input_gradient, weight_gradient, bias_gradient;
};
ConvolutionResult ReferenceConvolution(const Documents& documents, int64_t channels, int64_t taps,
                                       const Numbers& input, const Numbers& weight,
                                       const Numbers& bias, const Numbers& output_gradient);

struct Mamba2Sizes {
  int64_t heads, head_width, state_size, source_heads, groups, source_groups;
  double dt_minimum, dt_maximum;
};
struct Mamba2Inputs {
  Numbers x, b, c, dt, a_log, skip, dt_bias, y_gradient;
};
struct Mamba2Result {
  Numbers y, x, b, c, dt, a_log, skip, dt_bias;  // y, then gradients
};
Mamba2Result ReferenceMamba2(const Documents& documents, const Mamba2Sizes& sizes,
                             const Mamba2Inputs& inputs);

struct SelectiveSizes {
  int64_t channels, state_size, groups, source_groups;
};
struct SelectiveInputs {
  Numbers x, delta, b, c, z, a_log, skip, dt_bias, y_gradient;  // z empty: no gate
};
struct SelectiveResult {
  Numbers y, x, delta, b, c, z, a_log, skip, dt_bias;
};
SelectiveResult ReferenceSelective(const Documents& documents, const SelectiveSizes& sizes,
                                   const SelectiveInputs& inputs);

// results: [rows, 5] as kernels/cuda/training/divergence.h says; gradient [rows, vocabulary].
struct DivergenceSettings {
  double divergence_weight = 1, cross_entropy_weight = 0, temperature = 1;
  bool acceptance = false;
};
struct DivergenceResult {
  Numbers results, gradient;
};
DivergenceResult ReferenceDivergence(const Numbers& student, const Numbers& teacher,
                                     const std::vector<int64_t>& targets, const Numbers& row_weight,
                                     int64_t rows, int64_t vocabulary,
                                     const DivergenceSettings& settings);

}  // namespace mambad::gpu_check

#endif  // MAMBAD_TESTS_GPU_TRAINING_REFERENCE_H_
