// EngineCore's side of drafting: who may draft, how much is wished, what came of it.

#include <algorithm>

#include "engine/engine_core.h"

namespace mambad {

// Tokens that one step may read into lookups: some 1 ms.
constexpr int64_t kLookupTokensAStep = 2048;

// Texts go into their lookups a part in a step, so that a long prompt holds nobody up; until all of
// it is in, its lookup proposes nothing.
void EngineCore::ReadLookups() {
  int64_t left = kLookupTokensAStep;
  for (Answer* answer : running_) {
    Sequence& sequence = answer->sequence;
    if (!sequence.lookup.has_value() || sequence.lookup_ready()) continue;
    if (sequence.lookup->bytes() == 0) {
      const int64_t reserve = std::min(answer->token_limit, sequence.size() + kTextReserve) -
                              sequence.lookup_read + kStepTokens;
      sequence.lookup->Reserve(reserve);
      left -= reserve / 16;  // making room costs, too
    }
    const int64_t count = std::min(sequence.size() - sequence.lookup_read, left);
    if (count <= 0) return;
    sequence.lookup->Append(
        absl::MakeConstSpan(sequence.tokens).subspan(sequence.lookup_read, count));
    sequence.lookup_read += count;
    left -= count;
  }
}

// One wish for each running answer; 0 for those that still read their prompt. Nothing here can
// change a token.
void EngineCore::ChooseDrafts() {
  const EngineOptions& options = facts_.options;
  wished_drafts_.assign(running_.size(), 0);
  choices_.clear();
  chosen_.clear();
  int64_t prompt_rows = 0;
  for (size_t i = 0; i < running_.size(); ++i) {
    Answer& answer = *running_[i];
    Sequence& sequence = answer.sequence;
    answer.drafter = DrafterKind::kNone;
    if (sequence.backlog() != 1 || answer.generated() == 0) {
      prompt_rows += sequence.backlog();
      continue;
    }
    DraftChoice& choice = choices_.emplace_back();
    chosen_.push_back(i);
    choice.statistics = &sequence.draft_statistics;
    const SpeculationParams& wish = answer.request->request.speculation;
    if (!speculation_enabled_ || wish.mode == SpeculationMode::kOff) continue;
    choice.draft_model =
        facts_.draft_model.has_value() && wish.mode != SpeculationMode::kPromptLookup;
    choice.prompt_lookup = sequence.lookup_ready() && sequence.lookup->match_length() > 0;
    const int64_t room = answer.token_limit - sequence.size() - 1;
    choice.max_length = static_cast<int>(std::clamp<int64_t>(room, 0, options.max_draft_length));
    choice.fixed_length = wish.draft_length;
    choice.generated = answer.generated();
    choice.remaining = room + 1;
    if (choice.draft_model) {
      const int64_t unread = sequence.size() - sequence.draft.fed;
      choice.catch_up_rows = std::max<int64_t>(0, unread - 2);  // two are what a full round leaves
    }
  }
  draft_lengths_.Choose(absl::MakeSpan(choices_),
                        static_cast<int>(std::min<int64_t>(prompt_rows, options.max_step_rows)));
  for (size_t c = 0; c < choices_.size(); ++c) {
    wished_drafts_[chosen_[c]] = choices_[c].length;
    running_[chosen_[c]]->drafter = choices_[c].drafter;
  }
}

void EngineCore::ProposeLookups() {
  for (StepEntry& entry : plan_) {
    if (entry.draft_length == 0) continue;
    entry.drafter = entry.answer->drafter;
    if (entry.drafter != DrafterKind::kPromptLookup) continue;
    entry.sequence->lookup->Propose(entry.draft_length, lookup_);
    entry.draft_length = static_cast<int>(lookup_.size());
    std::copy(lookup_.begin(), lookup_.end(), entry.lookup.begin());
  }
}

// Tells the controller what the step took and what was kept of it.
void EngineCore::ObserveDrafts(const StepTimes& times) {
  StepMeasurement step;
  for (const StepEntry& entry : plan_) {
    step.rows += entry.feed + entry.draft_length;
    if (!entry.decoded()) {
      step.other_rows += entry.feed;
      continue;
    }
    ++step.sequences;
    step.kept += entry.kept;
    step.drafts += entry.draft_length;
    // A draft model that only reads what it is behind was asked for drafts, too.
    const bool fixed = entry.answer->request->request.speculation.draft_length.has_value();
    step.fixed |= fixed && (entry.draft_length > 0 || entry.draft_rows > 0);
    if (entry.draft_length == 0) continue;
    if (entry.drafter == DrafterKind::kDraftModel) {
      ++step.model_draft_sequences;
      step.model_draft_steps = std::max(step.model_draft_steps, entry.draft_length);
    }
    draft_lengths_.ObserveDrafts(entry.drafter, entry.draft_length, entry.accepted,
                                 entry.sequence->draft_statistics);
  }
  step.first_draft_rows = times.first_draft_rows;
  step.draft_seconds = times.draft_seconds;
  step.verify_seconds = times.verify_seconds;
  draft_lengths_.ObserveStep(step);
}

}  // namespace mambad
