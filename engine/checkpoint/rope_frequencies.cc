#include "engine/checkpoint/rope_frequencies.h"

#include <cmath>

namespace mambad::checkpoint {
namespace {

constexpr double kPi = 3.14159265358979323846;

double Llama3Scaled(double frequency, const RopeConfig& rope) {
  const double wavelength = 2 * kPi / frequency;
  const double context = static_cast<double>(rope.original_context);
  if (wavelength < context / rope.high_frequency_factor) return frequency;
  if (wavelength > context / rope.low_frequency_factor) return frequency / rope.factor;
  const double blend = (context / wavelength - rope.low_frequency_factor) /
                       (rope.high_frequency_factor - rope.low_frequency_factor);
  return (1 - blend) * frequency / rope.factor + blend * frequency;
}

}  // namespace

std::vector<float> InverseFrequencies(const RopeConfig& rope, int head_width) {
  std::vector<float> frequencies(head_width / 2);
  for (int i = 0; i < head_width / 2; ++i) {
    double frequency = std::pow(rope.theta, -2.0 * i / head_width);
    if (rope.scaling == RopeScalingKind::kLinear) frequency /= rope.factor;
    if (rope.scaling == RopeScalingKind::kLlama3) frequency = Llama3Scaled(frequency, rope);
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

}  // namespace mambad::checkpoint
