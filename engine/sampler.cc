#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace mambad {
namespace {

constexpr int kStagedRows = 4;  // that one step brings without waiting
constexpr int32_t kInPrompt = std::numeric_limits<int32_t>::min();  // the top bit

}  // namespace

bool HasPenalties(const SamplingParams& params) {
  return params.repetition_penalty != 1 || params.presence_penalty != 0 ||
         params.frequency_penalty != 0;
}

bool HasBiases(const SamplingParams& params) {
  return !params.logit_bias.empty() || !params.allowed_token_ids.empty();
}

Sampler::Sampler(int slots, int table_rows, int vocabulary, int padded_vocabulary,
                 kernels::Backend& backend)
    : backend_(backend) {
  const size_t cells = size_t{1} * table_rows * padded_vocabulary;
  states_ = backend.Allocate(slots * sizeof(kernels::SamplingState));
  host_states_ = backend.AllocateHost(slots * sizeof(kernels::SamplingState));
  std::uninitialized_fill_n(&state(0), slots, kernels::SamplingState());
  changed_.reserve(slots);
  counts_ = backend.Allocate(cells * sizeof(int32_t));
  bias_ = backend.Allocate(cells * sizeof(float));
  tables_.states = states_.as<kernels::SamplingState>();
  tables_.counts = counts_.as<int32_t>();
  tables_.bias = bias_.as<float>();
  tables_.vocabulary = vocabulary;
  tables_.padded_vocabulary = padded_vocabulary;
  staged_rows_ = backend.AllocateHost(sizeof(int32_t) * kStagedRows * padded_vocabulary);
  for (int32_t row = table_rows - 1; row >= 0; --row) {
    free_counts_.push_back(row);
    free_biases_.push_back(row);
  }
}

bool Sampler::HasRoom(const SamplingParams& params, int samples) const {
  const auto rows = static_cast<size_t>(samples);
  return (!HasPenalties(params) || rows <= free_counts_.size()) &&
         (!HasBiases(params) || rows <= free_biases_.size());
}

void Sampler::Release(int slot) {
  kernels::SamplingState& state = this->state(slot);
  if (state.counts_row >= 0) free_counts_.push_back(state.counts_row);
  if (state.bias_row >= 0) free_biases_.push_back(state.bias_row);
  state.counts_row = state.bias_row = -1;
}

void Sampler::Configure(int slot, const SlotSampling& sampling) {
  const SamplingParams& params = sampling.params;
  kernels::SamplingState& state = this->state(slot);
  state = kernels::SamplingState();
  state.temperature = params.temperature;
  state.top_p = params.top_p;
  state.min_p = params.min_p;
  state.top_k = params.top_k;
  state.repetition_penalty = params.repetition_penalty;
  state.presence_penalty = params.presence_penalty;
  state.frequency_penalty = params.frequency_penalty;
  state.seed = params.seed;
  state.sample = static_cast<uint32_t>(sampling.sample);
  state.stop_from = static_cast<int32_t>(sampling.stop_from);
  state.stop_count =
      static_cast<int32_t>(std::min<size_t>(sampling.stop_ids.size(), kernels::kMaxStopIds));
  std::copy_n(sampling.stop_ids.begin(), state.stop_count, state.stop_ids);
  state.alternatives = sampling.logprobs;
  if (HasPenalties(params)) {
    state.counts_row = free_counts_.back();
    free_counts_.pop_back();
    WriteCounts(state.counts_row, sampling.prompt, sampling.answer);
  }
  if (HasBiases(params)) {
    state.bias_row = free_biases_.back();
    free_biases_.pop_back();
    WriteBias(state.bias_row, params);
  }
  if (std::find(changed_.begin(), changed_.end(), slot) == changed_.end()) changed_.push_back(slot);
}

void Sampler::Upload() {
  for (int slot : changed_) {
    backend_.Write(tables_.states + slot, &state(slot), sizeof(kernels::SamplingState));
  }
  changed_.clear();
  staged_ = 0;
}

template <typename T>
T* Sampler::StageRow() {
  if (staged_ == kStagedRows) {
    backend_.Synchronize();
    staged_ = 0;
  }
  return staged_rows_.as<T>() + int64_t{staged_++} * tables_.padded_vocabulary;
}

void Sampler::WriteCounts(int row, absl::Span<const TokenId> prompt,
                          absl::Span<const TokenId> answer) {
  const int64_t columns = tables_.padded_vocabulary;
  int32_t* const counts = StageRow<int32_t>();
  std::fill_n(counts, columns, 0);
  for (TokenId id : prompt) counts[id] = kInPrompt;
  for (TokenId id : answer) ++counts[id];  // the top bit stays: it is the sign
  backend_.Write(tables_.counts + row * columns, counts, columns * sizeof(int32_t));
}

void Sampler::WriteBias(int row, const SamplingParams& params) {
  const float unlisted =
      params.allowed_token_ids.empty() ? 0.0f : -std::numeric_limits<float>::infinity();
  const int64_t columns = tables_.padded_vocabulary;
  float* const biases = StageRow<float>();
  std::fill_n(biases, columns, unlisted);
  for (TokenId id : params.allowed_token_ids) biases[id] = 0.0f;
  for (const auto& [id, bias] : params.logit_bias) biases[id] += bias;
  backend_.Write(tables_.bias + row * columns, biases, columns * sizeof(float));
}

}  // namespace mambad
