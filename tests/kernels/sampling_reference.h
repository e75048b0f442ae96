// The distribution of a row as kernels/cpu/sampling.h says it, in doubles, by sorting.

#ifndef MAMBAD_TESTS_KERNELS_SAMPLING_REFERENCE_H_
#define MAMBAD_TESTS_KERNELS_SAMPLING_REFERENCE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/backend.h"

namespace mambad::kernels {

struct Reference {
  std::vector<double> p;
  bool ambiguous = false;  // a cut lies where rounding may decide
};

inline std::vector<double> ProcessedLogits(const float* logits, int vocabulary,
                                           const SamplingState& state, const float* bias,
                                           const int32_t* counts,
                                           const std::vector<int32_t>& window, int64_t position) {
  constexpr double kImpossible = -std::numeric_limits<double>::infinity();
  std::vector<double> x(vocabulary);
  for (int id = 0; id < vocabulary; ++id) {
    x[id] = double(logits[id]) + (state.bias_row >= 0 ? bias[id] : 0.0f);
    if (state.counts_row >= 0) {
      const auto drafted = std::count(window.begin(), window.end(), id);
      const double answered = double(counts[id] & 0x7fffffff) + double(drafted);
      if (counts[id] != 0 || drafted > 0) {
        x[id] = x[id] > 0 ? x[id] / state.repetition_penalty : x[id] * state.repetition_penalty;
      }
      if (answered > 0) x[id] -= state.frequency_penalty * answered + state.presence_penalty;
    }
    for (int i = 0; i < state.stop_count; ++i) {
      if (state.stop_ids[i] == id && position < state.stop_from) x[id] = kImpossible;
    }
    if (std::isnan(x[id])) x[id] = kImpossible;
  }
  return x;
}

inline Reference Distribution(const std::vector<double>& x, const SamplingState& state) {
  const int n = static_cast<int>(x.size());
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  Reference reference;
  reference.p.assign(n, 0);
  std::vector<double> weight(n);
  for (int i = 0; i < n; ++i) weight[i] = std::exp((x[order[i]] - x[order[0]]) / state.temperature);
  int keep = n;
  if (state.temperature == 0) keep = 1;
  if (state.top_k > 0) keep = std::min(keep, state.top_k);
  if (state.top_p < 1) {
    const double all = std::accumulate(weight.begin(), weight.begin() + keep, 0.0);
    double sum = 0;
    int reached = 0;
    while (reached < keep) {
      sum += weight[reached++];
      if (std::abs(sum / all - state.top_p) < 1e-5) reference.ambiguous = true;
      if (sum >= state.top_p * all) break;
    }
    keep = reached;
  }
  int end = 0;
  while (end < keep && weight[end] >= double(state.min_p)) ++end;
  for (int i = 0; i < keep; ++i)
    reference.ambiguous |= std::abs(weight[i] - state.min_p) < 1e-5 * state.min_p;
  if (state.temperature == 0) weight[0] = 1;
  const double total = std::accumulate(weight.begin(), weight.begin() + end, 0.0);
  for (int i = 0; i < end; ++i) reference.p[order[i]] = weight[i] / total;
  return reference;
}

inline SamplingState RandomState(std::mt19937& random, int vocabulary) {
  const auto uniform = [&](float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(random);
  };
  SamplingState state;
  state.temperature = std::exp(uniform(-1.5f, 1.5f));
  if (random() % 2) state.top_p = uniform(0.01f, 1.0f);
  if (random() % 2) state.top_k = 1 + static_cast<int>(random() % (2 * vocabulary));
  if (random() % 2) state.min_p = uniform(0.0f, 0.4f);
  if (random() % 2) {
    state.repetition_penalty = uniform(0.5f, 2.0f);
    state.presence_penalty = uniform(-2.0f, 2.0f);
    state.frequency_penalty = uniform(-1.0f, 1.0f);
    state.counts_row = 0;
  }
  if (random() % 2) state.bias_row = 0;
  return state;
}

// Rows that no model should give.
inline std::vector<std::vector<float>> ExtremeRows() {
  constexpr float kInfinite = std::numeric_limits<float>::infinity(),
                  kNotANumber = std::numeric_limits<float>::quiet_NaN(),
                  kLargest = std::numeric_limits<float>::max();
  return {std::vector<float>(37, 0.0f),
          std::vector<float>(37, -kInfinite),
          std::vector<float>(37, kInfinite),
          std::vector<float>(37, kNotANumber),
          std::vector<float>(37, kLargest),
          std::vector<float>(37, -kLargest),
          {kNotANumber, -kInfinite, 1},
          {kInfinite, 1, kInfinite, kNotANumber},
          {kLargest, -kLargest, 0},
          {1e-45f, -1e-45f, 0},
          {5},
          {kNotANumber}};
}

// Parameters that no request should have, each with a row of counts and bias of its own.
inline std::vector<SamplingState> ExtremeStates() {
  constexpr float kInfinite = std::numeric_limits<float>::infinity(),
                  kNotANumber = std::numeric_limits<float>::quiet_NaN();
  std::vector<SamplingState> states;
  for (const float temperature :
       {0.0f, 1e-40f, 1e-6f, 1.0f, 100.0f, 1e38f, kInfinite, kNotANumber, -1.0f}) {
    for (const int top_k : {0, 1, 2, 1000}) {
      for (const float top_p : {1.0f, 1e-30f, 0.0f, 0.5f, 0.99999994f, kNotANumber, -5.0f}) {
        for (const float min_p : {0.0f, 1.0f, 1e-30f, 7.0f}) {
          for (const float penalty : {1.0f, 1e-40f, 1e30f, kInfinite}) {
            SamplingState state;
            state.temperature = temperature;
            state.top_k = top_k;
            state.top_p = top_p;
            state.min_p = min_p;
            state.repetition_penalty = penalty;
            state.presence_penalty = penalty == 1 ? 0 : -penalty;
            state.frequency_penalty = penalty == 1 ? 0 : penalty;
            state.counts_row = state.bias_row = static_cast<int32_t>(states.size());
            states.push_back(state);
          }
        }
      }
    }
  }
  return states;
}

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_SAMPLING_REFERENCE_H_
