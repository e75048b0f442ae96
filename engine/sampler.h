// The host's side of sampling: turns a request's SamplingParams into a slot's SamplingState in
// backend memory and owns the tables that the sampling kernels read (penalty counts, biases).
// Engine thread.

#ifndef MAMBAD_ENGINE_SAMPLER_H_
#define MAMBAD_ENGINE_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/options.h"
#include "kernels/backend.h"

namespace mambad {

// What a sequence needs of the tables besides its slot.
bool HasPenalties(const SamplingParams& params);
bool HasBiases(const SamplingParams& params);

// INVALID_ARGUMENT naming field, given value and allowed range.
absl::Status ValidateSampling(const SamplingParams& params, int vocabulary);

// What decides a sequence's tokens besides logits.
struct SlotSampling {
  const SamplingParams& params;
  int sample = 0;     // tells the samples of one request apart: their random draws differ
  int logprobs = -1;  // as OutputParams
  absl::Span<const TokenId> prompt;
  absl::Span<const TokenId> answer;    // what is said already, of one that was preempted
  absl::Span<const TokenId> stop_ids;  // at most kMaxStopIds: they end it
  int64_t stop_from = 0;               // from this position on
};

class Sampler {
 public:
  // `vocabulary` ids may be sampled; logits rows have `padded_vocabulary` columns. So many slots as
  // `table_rows` may have penalties at once, and so many biases.
  Sampler(int slots, int table_rows, int vocabulary, int padded_vocabulary,
          kernels::Backend& backend);

  // Whether `samples` more slots find rows in the tables.
  bool HasRoom(const SamplingParams& params, int samples) const;
  // Prepares a slot for a sequence, for which there is room. The slot must be released.
  void Configure(int slot, const SlotSampling& sampling);
  // The slot has no rows of tables any longer.
  void Release(int slot);
  // Brings slots that were prepared since to the backend: before operations that use them. Then
  // none may be prepared until the backend has been waited for.
  void Upload();

  const kernels::SamplingTables& tables() const { return tables_; }

 private:
  kernels::SamplingState& state(int slot) {
    return host_states_.as<kernels::SamplingState>()[slot];
  }
  void WriteCounts(int row, absl::Span<const TokenId> prompt, absl::Span<const TokenId> answer);
  void WriteBias(int row, const SamplingParams& params);

  kernels::Backend& backend_;
  kernels::SamplingTables tables_;
  kernels::Buffer states_, counts_, bias_;
  kernels::Buffer host_states_;                     // [slots], as states_
  std::vector<int> changed_;                        // slots that states_ does not have yet
  std::vector<int32_t> free_counts_, free_biases_;  // rows
  std::vector<int32_t> count_row_;                  // one row's staging
  std::vector<float> bias_row_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SAMPLER_H_
