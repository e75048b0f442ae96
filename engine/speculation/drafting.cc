#include "engine/speculation/drafting.h"

#include <algorithm>
#include <utility>

#include "engine/active_request.h"

namespace mambad {
namespace {

// Tokens that one step may read into lookups: some 1 ms.
constexpr int64_t kLookupTokensAStep = 2048;

// What the host took while the device had nothing to do. More than the step itself took has another
// reason than the step.
double HostSeconds(const StepTimes& times, double seconds) {
  return std::clamp(seconds - times.total_seconds, 0.0, std::max(times.total_seconds, 0.0));
}

}  // namespace

Drafting::Drafting(const EngineOptions& options, bool draft_model)
    : options_(options), draft_model_(draft_model), enabled_(options.speculation) {
  wished_.reserve(options.max_sequences);
  choices_.reserve(options.max_sequences);
  chosen_.reserve(options.max_sequences);
  lookup_.reserve(kMaxDraftLength);
}

void Drafting::Begin(Answer& answer) const {
  const ActiveRequest& active = *answer.request;
  const SpeculationMode mode = active.request.speculation.mode;
  const bool looks_up = mode == SpeculationMode::kPromptLookup ||
                        (mode == SpeculationMode::kAuto && options_.prompt_lookup);
  if (!options_.speculation || active.scoring() || !looks_up) return;
  answer.sequence.lookup.emplace();
  answer.sequence.lookup_read =
      std::max<int64_t>(0, answer.prompt_length - PromptLookup::kWindow / 2);
}

void Drafting::ReadLookups(absl::Span<Answer* const> running) {
  if (std::exchange(lookups_read_, true)) return;
  int64_t left = kLookupTokensAStep;
  for (Answer* answer : running) {
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

absl::Span<const int> Drafting::Choose(absl::Span<Answer* const> running) {
  wished_.assign(running.size(), 0);
  choices_.clear();
  chosen_.clear();
  int64_t prompt_rows = 0;
  for (size_t i = 0; i < running.size(); ++i) {
    Answer& answer = *running[i];
    answer.drafter = DrafterKind::kNone;
    if (answer.sequence.backlog() != 1 || answer.generated() == 0) {
      prompt_rows += answer.sequence.backlog();
      continue;
    }
    chosen_.push_back(i);
  }
  const auto other_rows = static_cast<int>(std::min<int64_t>(prompt_rows, options_.max_step_rows));
  lookups_read_ = false;
  if (MayDraft(running, other_rows)) ReadLookups(running);
  for (const size_t i : chosen_) choices_.push_back(ChoiceOf(*running[i]));
  draft_lengths_.Choose(absl::MakeSpan(choices_), other_rows);
  for (size_t c = 0; c < choices_.size(); ++c) {
    wished_[chosen_[c]] = choices_[c].length;
    running[chosen_[c]]->drafter = choices_[c].drafter;
  }
  return wished_;
}

// Whether any of the chosen may draft in this step.
bool Drafting::MayDraft(absl::Span<Answer* const> running, int prompt_rows) const {
  const bool fixed = std::any_of(chosen_.begin(), chosen_.end(), [&](size_t i) {
    return running[i]->request->request.speculation.draft_length.has_value();
  });
  return fixed || draft_lengths_.MayDraft(static_cast<int>(chosen_.size()), prompt_rows);
}

// What the controller is asked about an answer that decodes.
DraftChoice Drafting::ChoiceOf(const Answer& answer) const {
  const Sequence& sequence = answer.sequence;
  DraftChoice choice;
  choice.statistics = &sequence.draft_statistics;
  const SpeculationParams& wish = answer.request->request.speculation;
  if (!enabled_ || wish.mode == SpeculationMode::kOff) return choice;
  choice.draft_model = draft_model_ && wish.mode != SpeculationMode::kPromptLookup;
  choice.prompt_lookup = sequence.lookup_ready() && sequence.lookup->match_length() > 0;
  const int64_t room = answer.token_limit - sequence.size() - 1;
  choice.max_length = static_cast<int>(std::clamp<int64_t>(room, 0, options_.max_draft_length));
  choice.fixed_length = wish.draft_length;
  choice.generated = answer.generated();
  choice.remaining = room + 1;
  if (choice.draft_model) {
    const int64_t unread = sequence.size() - sequence.draft.fed;
    choice.catch_up_rows = std::max<int64_t>(0, unread - 2);  // two are what a full round leaves
  }
  return choice;
}

void Drafting::ProposeLookups(absl::Span<StepEntry> plan) {
  for (StepEntry& entry : plan) {
    if (entry.draft_length == 0) continue;
    entry.drafter = entry.answer->drafter;
    if (entry.drafter != DrafterKind::kPromptLookup) continue;
    entry.sequence->lookup->Propose(entry.draft_length, lookup_);
    entry.draft_length = static_cast<int>(lookup_.size());
    std::copy(lookup_.begin(), lookup_.end(), entry.lookup.begin());
  }
}

void Drafting::Observe(absl::Span<const StepEntry> plan, const StepTimes& times, double seconds) {
  StepMeasurement step;
  for (const StepEntry& entry : plan) {
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
    step.longest_draft = std::max(step.longest_draft, entry.draft_length);
    if (entry.drafter == DrafterKind::kDraftModel) {
      for (int k = 0; k < entry.draft_length; ++k) ++step.model_drafting[k];
      ++step.model_draft_sequences;
      step.model_draft_steps = std::max(step.model_draft_steps, entry.draft_length);
    }
    draft_lengths_.ObserveDrafts(entry.drafter, entry.draft_length, entry.accepted,
                                 entry.sequence->draft_statistics);
  }
  step.first_draft_rows = times.first_draft_rows;
  step.draft_seconds = times.draft_seconds;
  step.verify_seconds = times.verify_seconds;
  if (times.recorded) {
    step.recording_seconds = std::max(0.0, seconds - times.total_seconds);
  } else {
    step.verify_seconds += HostSeconds(times, seconds);
  }
  draft_lengths_.ObserveStep(step);
}

}  // namespace mambad
