// The recurrent operations of training in double, written from the formulas of
// kernels/training_scan.h and nothing else; their gradients by central differences.

#ifndef MAMBAD_TESTS_KERNELS_TRAINING_REFERENCE_H_
#define MAMBAD_TESTS_KERNELS_TRAINING_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "kernels/training_scan.h"

namespace mambad::kernels {

using Numbers = std::vector<double>;
// Tensors of a problem by the names of its fields, row-major and dense.
using Tensors = std::map<std::string, Numbers>;

inline bool Begins(const TrainingBatch& batch, int64_t sequence, int64_t token) {
  return token == 0 || (batch.document_start != nullptr &&
                        batch.document_start[sequence * batch.tokens + token] == 1);
}

inline double ReferenceSilu(double v) { return v / (1 + std::exp(-v)); }
inline double ReferenceSoftplus(double v) {
  return std::max(v, 0.0) + std::log1p(std::exp(-std::fabs(v)));
}

inline Numbers Reference(const CausalConvolution& p, const Tensors& in) {
  const Numbers &input = in.at("input"), &weight = in.at("weight");
  Numbers out;
  for (int64_t row = 0; row < p.batch.rows(); ++row) {
    int64_t first = row;  // of the row's document
    while (!Begins(p.batch, first / p.batch.tokens, first % p.batch.tokens)) --first;
    for (int64_t c = 0; c < p.channels; ++c) {
      double pre = in.count("bias") ? in.at("bias")[c] : 0;
      for (int64_t j = 0; j < p.taps; ++j) {
        const int64_t from = row - p.taps + 1 + j;
        if (from >= first) pre += weight[c * p.taps + j] * input[from * p.channels + c];
      }
      out.push_back(ReferenceSilu(pre));
    }
  }
  return out;
}

// `a` may be given instead of `a_log`, then with any sign.
inline Numbers Reference(const SelectiveScan& p, const Tensors& in) {
  const int64_t channels = p.channels, size = p.state_size;
  const Numbers &x = in.at("x"), &b = in.at("b"), &c = in.at("c");
  Numbers out(p.batch.rows() * channels);
  for (int64_t i = 0; i < channels; ++i) {
    const int64_t group = i / (channels / p.groups), source = group / (p.groups / p.source_groups);
    Numbers state(size);
    for (int64_t row = 0; row < p.batch.rows(); ++row) {
      if (Begins(p.batch, row / p.batch.tokens, row % p.batch.tokens)) state.assign(size, 0);
      const int64_t at = row * channels + i;
      const double dt = ReferenceSoftplus(in.at("delta")[at] + in.at("dt_bias")[i]);
      double y = in.at("skip")[i] * x[at];
      for (int64_t n = 0; n < size; ++n) {
        const double a =
            in.count("a") ? in.at("a")[i * size + n] : -std::exp(in.at("a_log")[i * size + n]);
        state[n] = std::exp(dt * a) * state[n] +
                   dt * b[(row * p.source_groups + source) * size + n] * x[at];
        y += c[(row * p.groups + group) * size + n] * state[n];
      }
      out[at] = in.count("z") ? y * ReferenceSilu(in.at("z")[at]) : y;
    }
  }
  return out;
}

inline Numbers Reference(const Mamba2Scan& p, const Tensors& in) {
  const int64_t heads = p.heads, width = p.head_width, size = p.state_size;
  const Numbers &x = in.at("x"), &b = in.at("b"), &c = in.at("c");
  Numbers out(p.batch.rows() * heads * width);
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t group = h / (heads / p.groups),
                  source_group = group / (p.groups / p.source_groups),
                  source_head = h / (heads / p.source_heads);
    const double a = -std::exp(in.at("a_log")[h]);
    Numbers state(width * size);
    for (int64_t row = 0; row < p.batch.rows(); ++row) {
      if (Begins(p.batch, row / p.batch.tokens, row % p.batch.tokens)) {
        state.assign(width * size, 0);
      }
      const double raw = ReferenceSoftplus(in.at("dt")[row * heads + h] + in.at("dt_bias")[h]);
      const double dt = std::min(std::max(raw, double{p.dt_minimum}), double{p.dt_maximum});
      const double decay = std::exp(dt * a);
      for (int64_t i = 0; i < width; ++i) {
        const double value = x[(row * p.source_heads + source_head) * width + i];
        double y = in.at("skip")[h] * value;
        for (int64_t n = 0; n < size; ++n) {
          double& s = state[i * size + n];
          s = decay * s + dt * value * b[(row * p.source_groups + source_group) * size + n];
          y += s * c[(row * p.groups + group) * size + n];
        }
        out[(row * heads + h) * width + i] = y;
      }
    }
  }
  return out;
}

// d (sum of weight * output) / d every element of every tensor.
template <typename Problem>
Tensors Differences(const Problem& problem, Tensors in, const Numbers& weight) {
  const auto loss = [&] {
    const Numbers out = Reference(problem, in);
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += weight[i] * out[i];
    return sum;
  };
  constexpr double kStep = 1e-5;
  Tensors gradients;
  for (auto& [name, values] : in) {
    Numbers& gradient = gradients[name];
    for (double& value : values) {
      const double kept = value;
      value = kept + kStep;
      const double above = loss();
      value = kept - kStep;
      gradient.push_back((above - loss()) / (2 * kStep));
      value = kept;
    }
  }
  return gradients;
}

inline double RelativeError(const Numbers& ours, const Numbers& theirs) {
  if (ours.size() != theirs.size()) return INFINITY;
  double difference = 0, size = 0;
  for (size_t i = 0; i < theirs.size(); ++i) {
    difference += (ours[i] - theirs[i]) * (ours[i] - theirs[i]);
    size += theirs[i] * theirs[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / size);
}

// Numbers that a float holds exactly, uniform in [low, high).
inline Numbers Random(std::mt19937& random, int64_t count, double low, double high) {
  std::uniform_real_distribution<float> between(static_cast<float>(low), static_cast<float>(high));
  Numbers numbers(count);
  for (double& number : numbers) number = between(random);
  return numbers;
}

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_TRAINING_REFERENCE_H_
