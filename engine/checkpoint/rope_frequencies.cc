#include "engine/checkpoint/rope_frequencies.h"

#include <algorithm>
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

// The share of its own frequency that dimension i keeps; the rest is divided by the factor.
double YarnKept(int i, const RopeConfig& rope, int head_width) {
  // The dimension that turns so many times within the original context.
  const auto dimension = [&](double turns) {
    return head_width * std::log(static_cast<double>(rope.original_context) / (turns * 2 * kPi)) /
           (2 * std::log(rope.theta));
  };
  double low = dimension(rope.beta_fast), high = dimension(rope.beta_slow);
  if (rope.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, head_width - 1.0);
  if (low == high) high += 0.001;
  return 1 - std::clamp((i - low) / (high - low), 0.0, 1.0);
}

}  // namespace

double YarnAttentionFactor(double factor, double multiplier) {
  return factor <= 1 ? 1 : 0.1 * multiplier * std::log(factor) + 1;
}

std::vector<float> InverseFrequencies(const RopeConfig& rope, int head_width) {
  std::vector<float> frequencies(head_width / 2);
  for (int i = 0; i < head_width / 2; ++i) {
    double frequency = std::pow(rope.theta, -2.0 * i / head_width);
    if (rope.scaling == RopeScalingKind::kLinear) frequency /= rope.factor;
    if (rope.scaling == RopeScalingKind::kLlama3) frequency = Llama3Scaled(frequency, rope);
    if (rope.scaling == RopeScalingKind::kYarn) {
      const double kept = YarnKept(i, rope, head_width);
      frequency = (1 - kept) * frequency / rope.factor + kept * frequency;
    }
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

}  // namespace mambad::checkpoint
