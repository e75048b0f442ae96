// Drafting as a step sees it: who may draft, how much is wished for, what prompt lookup proposes,
// what came of it all. How long a draft pays is the controller's to say (draft_length.h). Nothing
// here can change a token.
//
// A step calls, in this order: Choose, then (of what is planned) ProposeLookups, ReadLookups when
// the round was launched, and Observe when it has ended. Engine thread; allocates nothing once
// warm.

#ifndef MAMBAD_ENGINE_SPECULATION_DRAFTING_H_
#define MAMBAD_ENGINE_SPECULATION_DRAFTING_H_

#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "engine/answer.h"
#include "engine/options.h"
#include "engine/speculation/draft_length.h"
#include "engine/speculation/speculative_decoder.h"
#include "engine/speculation/step_plan.h"

namespace mambad {

class Drafting {
 public:
  // `options`: resolved; they outlive it. `draft_model`: whether there is one.
  Drafting(const EngineOptions& options, bool draft_model);

  bool enabled() const { return enabled_; }
  // Never more than the options allow.
  void set_enabled(bool enabled) { enabled_ = enabled && options_.speculation; }

  // Gives an answer that begins its lookup, where prompt lookup may be used.
  void Begin(Answer& answer) const;
  // Texts go into their lookups a part in a step, so that a long prompt holds nobody up; until all
  // of it is in, its lookup proposes nothing. In steps that cannot have drafts out of lookups that
  // is done here, while the round runs, and else in Choose. Many texts together take as long as a
  // round of a small model: the tables of none are at hand.
  void ReadLookups(absl::Span<Answer* const> running);
  // Sets every answer's drafter. Returns how many drafts are wished for, one number a running
  // answer; 0 for those that still read their prompt. Good until the next call.
  absl::Span<const int> Choose(absl::Span<Answer* const> running);
  // Fills in who drafts, and the drafts that come out of lookups: no more than are planned.
  void ProposeLookups(absl::Span<StepEntry> plan);
  // Tells the controller what the step took and what was kept of it. `seconds`: from the end of the
  // step before to its own, or from its launch where nothing ran before; what the host did while
  // the device waited is in them.
  void Observe(absl::Span<const StepEntry> plan, const StepTimes& times, double seconds);

  // What was learned about drafts of all sequences begins anew.
  void Forget() { draft_lengths_ = DraftLengthController(); }

 private:
  DraftChoice ChoiceOf(const Answer& answer) const;
  bool MayDraft(absl::Span<Answer* const> running, int prompt_rows) const;

  const EngineOptions& options_;
  const bool draft_model_;
  bool enabled_;
  DraftLengthController draft_lengths_;

  // Reused every step.
  std::vector<int> wished_;           // [running]
  std::vector<DraftChoice> choices_;  // of the decoding answers
  std::vector<size_t> chosen_;        // [choices_]: which of the running ones
  std::vector<TokenId> lookup_;
  bool lookups_read_ = false;  // in this step
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SPECULATION_DRAFTING_H_
