// What the tests of sampling share: a step's arrays to fill by hand, and the contract's
// distribution in doubles.

#ifndef MAMBAD_TESTS_KERNELS_SAMPLING_STEP_H_
#define MAMBAD_TESTS_KERNELS_SAMPLING_STEP_H_

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu/sampling.h"

namespace mambad::kernels {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr int kTokens = kMaxWindowRows + 1;

// One step's arrays, filled by hand: `sequences` sequences, slot s each, window rows of sequence s
// at s * kTokens.
struct Step {
  Step(int sequences, int vocabulary, int padded = 0, int threads = 1)
      : count(sequences),
        V(std::max(vocabulary, padded)),
        pool(std::make_unique<ThreadPool>(threads)) {
    states.resize(sequences);
    for (int s = 0; s < sequences; ++s) states[s].seed = 1000 + s;
    logits.assign(size_t(sequences) * kTokens * V, 50.0f);  // padding must not be sampled
    counts.assign(size_t(sequences) * V, 0);
    bias.assign(size_t(sequences) * V, 0.0f);
    tables = {states.data(), counts.data(), bias.data(), vocabulary, V};
    scratch = CreateSamplingScratch(threads, V);
    for (auto* array :
         {&slot, &begin, &drafts, &row, &limit, &accepted, &kept, &stopped, &position}) {
      array->assign(sequences, 0);
    }
    tokens.assign(sequences * kTokens, 0);
    out.assign(sequences * kTokens, -1);
    for (int s = 0; s < sequences; ++s) {
      slot[s] = s;
      begin[s] = row[s] = s * kTokens;
      limit[s] = kTokens;
      position[s] = 10 + s;
    }
    logprobs.assign(sequences * kTokens, kNaN);
    alternative_ids.assign(sequences * kTokens * kMaxAlternatives, -5);
    alternative_logprobs.assign(sequences * kTokens * kMaxAlternatives, kNaN);
  }

  float* Logits(int s, int window_row) {
    return logits.data() + (size_t(s) * kTokens + window_row) * V;
  }
  void SetLogits(int s, int window_row, const std::vector<float>& values) {
    std::copy(values.begin(), values.end(), Logits(s, window_row));
  }
  RowsView View() { return {logits.data(), count * kTokens, V, V}; }

  // `alternatives`: every slot's.
  void Accept(int alternatives = -1) {
    for (SamplingState& state : states) state.alternatives = alternatives;
    AcceptAsAsked(/*with_logprobs=*/alternatives >= 0);
  }
  void AcceptAsAsked(bool with_logprobs) {
    const Acceptance request{count,           slot.data(),  begin.data(),
                             drafts.data(),   row.data(),   tokens.data(),
                             position.data(), limit.data(), with_logprobs};
    const AcceptanceResult result{accepted.data(),
                                  kept.data(),
                                  out.data(),
                                  stopped.data(),
                                  logprobs.data(),
                                  alternative_ids.data(),
                                  alternative_logprobs.data()};
    AcceptDrafts(*pool, request, tables, View(), result, scratch);
  }

  // Draws draft `step` of all sequences from `draft_logits` [sequences][V], at the position where
  // it belongs.
  void Draft(int step, std::vector<float>& draft_logits) {
    std::vector<int32_t> logit_row(count), at(count), place(count), next(count, -1);
    for (int s = 0; s < count; ++s) {
      logit_row[s] = s;
      at[s] = position[s] + step;
      place[s] = row[s] + 1 + step;
    }
    const DraftSampling request{count,         slot.data(),  logit_row.data(), at.data(),  step,
                                tokens.data(), place.data(), nullptr,          next.data()};
    SampleDraftTokens(*pool, request, tables, {draft_logits.data(), count, V, V}, scratch);
  }

  int count, V;
  std::unique_ptr<ThreadPool> pool;
  std::vector<SamplingState> states;
  std::vector<float> logits, bias, logprobs, alternative_logprobs;
  std::vector<int32_t> counts, slot, begin, drafts, row, limit, accepted, kept, stopped, position,
      tokens, out, alternative_ids;
  SamplingTables tables;
  SamplingScratch scratch;
};

// ---- the contract in doubles, by sorting --------------------------------------------------------

struct Reference {
  std::vector<double> p;
  bool ambiguous = false;  // a cut lies where rounding may decide
};

inline std::vector<double> ProcessedLogits(const float* logits, int vocabulary,
                                           const SamplingState& state, const float* bias,
                                           const int32_t* counts,
                                           const std::vector<int32_t>& window, int64_t position) {
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
      if (state.stop_ids[i] == id && position < state.stop_from) x[id] = -kInfinity;
    }
    if (std::isnan(x[id])) x[id] = -kInfinity;
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

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_SAMPLING_STEP_H_
