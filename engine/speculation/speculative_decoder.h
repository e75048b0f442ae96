// One step of many sequences: draft, verify, accept, commit. Plain decoding is draft length 0 and a
// prompt chunk is a window whose rows are all committed, so that one path serves all three. What a
// step keeps is decided by logits alone: how sequences are batched, chunked or drafted for never
// changes a token.

#ifndef MAMBAD_ENGINE_SPECULATION_SPECULATIVE_DECODER_H_
#define MAMBAD_ENGINE_SPECULATION_SPECULATIVE_DECODER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "engine/model/model.h"
#include "engine/options.h"
#include "engine/sampler.h"
#include "engine/sequence.h"
#include "engine/speculation/staging_area.h"
#include "engine/speculation/step_batch.h"
#include "engine/speculation/step_plan.h"
#include "engine/state/state_pool.h"
#include "kernels/backend.h"

namespace mambad {

// Log-probabilities of one token: the chosen one's and the alternatives', most likely first.
struct LogprobView {
  float logprob = 0;
  const int32_t* ids = nullptr;
  const float* logprobs = nullptr;
};

struct StepTimes {
  double draft_seconds = 0, verify_seconds = 0, total_seconds = 0;  // as kernels::RoundTimes
  bool recorded = false;     // the device did not know the round and recorded it first
  int draft_rows = 0;        // rows the draft model ran
  int first_draft_rows = 0;  // of them in its first call, which reads what it has not read yet
};

class SpeculativeDecoder {
 public:
  struct Shape {
    int max_sequences = 0, max_rows = 0, max_logit_rows = 0, max_draft_length = 0;
  };
  // `draft` and `draft_state` may be null. All must outlive the decoder.
  SpeculativeDecoder(const Shape& shape, kernels::Backend& backend, Model& target,
                     StatePool& target_state, Model* draft, StatePool* draft_state,
                     Sampler& sampler);

  // Starts the step. Until Finish the entries stay where they are, and nobody touches them, what
  // their sequences have but their lookups, or the state of any slot.
  // `alternatives`: the most that a sequence asks for, as OutputParams::logprobs;
  // `score_alternatives`: likewise for scored rows. Draft lengths may be lowered (a draft model
  // that is far behind reads its backlog first). Allocates nothing.
  void Launch(absl::Span<StepEntry> entries, int alternatives, int score_alternatives);
  // Waits for what was launched, writes its results into the entries and advances the read
  // positions of their sequences; appending the kept tokens to Sequence::tokens is the caller's,
  // who may cut them further (Sequence::Trim).
  StepTimes Finish();

  LogprobView KeptLogprob(const StepEntry& entry, int token) const;
  LogprobView ScoredLogprob(const StepEntry& entry, int row) const;

 private:
  struct DraftCall {
    StepBatch batch;
    StagingArea::Array<int32_t> logit_row, position, token_row, next_row;  // by accept index
  };

  void PlanDraftModel(absl::Span<StepEntry> entries);
  void PlanVerify(absl::Span<StepEntry> entries);
  void PlanDraftCalls(absl::Span<StepEntry> entries, const kernels::RoundShape& shape);
  kernels::RoundShape ShapeOf(absl::Span<const StepEntry> entries, bool logprobs) const;
  void Bound(const kernels::RoundShape& shape);
  void RunDrafts();
  void RunVerify(bool logprobs, int score_alternatives);
  void Upload();
  void Download(int alternatives, int score_alternatives);
  void Collect();
  StepTimes Times();

  const Shape shape_;
  kernels::Backend& backend_;
  Model& target_;
  StatePool& target_state_;
  Model* const draft_;
  StatePool* const draft_state_;
  Sampler& sampler_;

  // Arrays of the step, uploaded in one write.
  StagingArea inputs_;
  StepBatch verify_;
  std::vector<DraftCall> draft_calls_;  // [max_draft_length]
  int draft_call_count_ = 0;
  absl::Span<StepEntry> entries_;  // that were launched
  int accept_count_ = 0, score_count_ = 0;
  int64_t recordings_ = 0;  // of the device, before the step
  StagingArea::Array<int32_t> accept_slot_, logit_begin_, draft_length_, token_row_,
      accept_position_, limit_;
  StagingArea::Array<int32_t> score_logit_row_, score_token_;
  std::vector<int> waiting_;       // [entries], rows in replay rows before those of the drafts
  std::vector<int> verify_row_;    // [entries], row of the entry's last backlog token in the verify
  std::vector<int> draft_read_;    // [entries], tokens that the draft model reads in call 0
  std::vector<int> draft_row_;     // [entries], row of the last of them
  std::vector<int> accept_index_;  // [entries], -1: nothing sampled

  // Results, downloaded in one read as far as they are asked for: what was kept, log-probabilities,
  // alternatives of kept tokens, alternatives of scored ones.
  StagingArea results_;
  int64_t kept_end_ = 0, logprobs_end_ = 0, alternatives_end_ = 0, scores_end_ = 0;  // bytes
  StagingArea::Array<int32_t> accepted_, kept_, tokens_, stopped_, kept_ids_, score_ids_;
  StagingArea::Array<float> kept_logprobs_, kept_alternatives_, score_logprobs_,
      score_alternatives_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SPECULATION_SPECULATIVE_DECODER_H_
