// EngineCore's way out: what a step kept becomes events, and what has ended gives everything back.

#include <algorithm>
#include <utility>

#include "engine/engine_core.h"

namespace mambad {
namespace {

int64_t Microseconds(absl::Duration duration) { return absl::ToInt64Microseconds(duration); }

void FillLogprob(TokenId id, const LogprobView& view, int alternatives, TokenLogprob& out) {
  out.id = id;
  out.logprob = view.logprob;
  out.alternatives.clear();
  for (int i = 0; i < alternatives; ++i)
    out.alternatives.emplace_back(view.ids[i], view.logprobs[i]);
}

void AddPosition(std::vector<int64_t>& histogram, size_t at) {
  if (histogram.size() <= at) histogram.resize(at + 1);
  ++histogram[at];
}

}  // namespace

RequestStats StatsOfUnstarted(int64_t prompt_tokens, absl::Duration waited) {
  RequestStats stats;
  stats.prompt_tokens = prompt_tokens;
  stats.queue_microseconds = stats.total_microseconds = Microseconds(waited);
  return stats;
}

void EngineCore::Deliver(StepEntry& entry, absl::Time now) {
  Sequence& sequence = *entry.sequence;
  ActiveRequest& active = *sequence.request;
  const Request& request = active.request;
  if (entry.scored > 0) CollectPromptLogprobs(entry);
  if (active.scoring()) {
    if (sequence.backlog() == 1) Finish(sequence, FinishReason::kLength, now);
    return;
  }
  if (!entry.sampled) return;

  std::string matched;
  const bool first = sequence.generated() == 0;
  event_.text.clear();
  if (first && request.echo_text.has_value()) event_.text = *request.echo_text;
  const int64_t kept = ReadText(sequence, entry, &matched);
  if (sequence.lookup_ready()) {
    sequence.lookup->Append(absl::MakeConstSpan(entry.tokens, kept));
    sequence.lookup_read += kept;
  }
  sequence.tokens.insert(sequence.tokens.end(), entry.tokens, entry.tokens + kept);
  if (first) {
    sequence.stats.prefill_microseconds = Microseconds(now - active.admitted);
    sequence.stats.first_token_microseconds = Microseconds(now - active.submitted);
  }

  event_.tokens.assign(entry.tokens, entry.tokens + kept);
  ResizeLogprobs(request.output.logprobs >= 0 ? kept : 0);
  for (size_t i = 0; i < event_.logprobs.size(); ++i) {
    FillLogprob(entry.tokens[i], decoder_->KeptLogprob(entry, static_cast<int>(i)),
                request.output.logprobs, event_.logprobs[i]);
  }
  SpeculationReport& report = sequence.stats.speculation;
  if (entry.draft_length > 0) {
    ++report.rounds;
    report.drafted += entry.draft_length;
    report.accepted += entry.accepted;
    for (int i = 0; i < entry.accepted; ++i) AddPosition(report.accepted_per_position, i);
  }
  AddPosition(report.tokens_per_round, kept);

  FinishReason reason = FinishReason::kNone;
  event_.matched_stop.clear();
  event_.matched_stop_id.reset();
  if (!matched.empty()) {
    reason = FinishReason::kStop;
    event_.matched_stop = matched;
  } else if (entry.stopped && kept == entry.kept) {
    const TokenId last = entry.tokens[kept - 1];
    const bool eos = !request.stopping.ignore_eos &&
                     std::find(facts_.model.eos_ids.begin(), facts_.model.eos_ids.end(), last) !=
                         facts_.model.eos_ids.end();
    reason = eos ? FinishReason::kEos : FinishReason::kStop;
    event_.matched_stop_id = last;
  } else if (static_cast<int64_t>(sequence.tokens.size()) >= sequence.token_limit) {
    reason = FinishReason::kLength;
  }
  stats_.generation_tokens += kept;
  if (reason != FinishReason::kNone) {
    Finish(sequence, reason, now);
  } else {
    event_.index = sequence.index;
    event_.finish = FinishReason::kNone;
    event_.stats.reset();
    Emit(active);
  }
}

// Appends the text of the kept tokens to event_.text; returns how many of them stay after a stop
// string's cut.
int64_t EngineCore::ReadText(Sequence& sequence, const StepEntry& entry, std::string* matched) {
  if (!sequence.detokenizer.has_value()) return entry.kept;
  // The token that ends the text is no part of it, unless asked for. Special ones are never shown,
  // but a stop string may spell them.
  const bool hide_last = entry.stopped && !sequence.request->request.stopping.include_stop &&
                         !facts_.tokenizer->IsSpecial(entry.tokens[entry.kept - 1]);
  const int visible = entry.kept - (hide_last ? 1 : 0);
  const text::Detokenizer::Output output =
      sequence.detokenizer->Push(absl::MakeConstSpan(entry.tokens, visible));
  event_.text.append(output.text);
  if (output.stop == text::Detokenizer::kNoStop) return entry.kept;
  *matched = sequence.request->request.stopping.stop_strings[output.stop];
  return static_cast<int64_t>(output.kept_tokens);
}

// Makes event_ have `count` log-probabilities to fill. Those it does not need are kept aside with
// their memory: a decode step allocates nothing.
void EngineCore::ResizeLogprobs(int64_t count) {
  std::vector<TokenLogprob>& used = event_.logprobs;
  while (static_cast<int64_t>(used.size()) > count) {
    spare_logprobs_.push_back(std::move(used.back()));
    used.pop_back();
  }
  while (static_cast<int64_t>(used.size()) < count) {
    if (spare_logprobs_.empty()) {
      used.emplace_back().alternatives.reserve(kernels::kMaxAlternatives);
    } else {
      used.push_back(std::move(spare_logprobs_.back()));
      spare_logprobs_.pop_back();
    }
  }
}

void EngineCore::CollectPromptLogprobs(const StepEntry& entry) {
  Sequence& sequence = *entry.sequence;
  ActiveRequest& active = *sequence.request;
  const int alternatives = std::max(0, active.request.output.prompt_logprobs);
  const int64_t first = entry.position + entry.score_begin;
  for (int i = 0; i < entry.scored; ++i) {
    TokenLogprob& logprob = active.prompt_logprobs.emplace_back();
    logprob.alternatives.reserve(alternatives);
    FillLogprob(sequence.tokens[first + i + 1], decoder_->ScoredLogprob(entry, i), alternatives,
                logprob);
  }
  sequence.scored_to = first + entry.scored;
}

// Sends what event_ holds of the sequence's last step, with the rest of its text and its
// statistics, and gives everything back.
void EngineCore::Finish(Sequence& sequence, FinishReason reason, absl::Time now) {
  ActiveRequest& active = *sequence.request;
  const bool from_step = reason == FinishReason::kEos || reason == FinishReason::kStop ||
                         reason == FinishReason::kLength;
  if (!from_step || active.scoring()) {
    event_.text.clear();
    event_.tokens.clear();
    ResizeLogprobs(0);
    event_.matched_stop.clear();
    event_.matched_stop_id.reset();
  }
  if (sequence.detokenizer.has_value() && event_.matched_stop.empty())
    event_.text.append(sequence.detokenizer->Finish().text);
  event_.index = sequence.index;
  event_.finish = reason;
  RequestStats& stats = sequence.stats;
  stats.completion_tokens = sequence.generated();
  stats.queue_microseconds = Microseconds(active.admitted - active.submitted);
  stats.total_microseconds = Microseconds(now - active.submitted);
  stats.decode_microseconds =
      sequence.generated() > 0 ? stats.total_microseconds - stats.first_token_microseconds : 0;
  event_.stats = stats;
  if (from_step && !active.scoring()) {
    pace_.ObserveAnswer(sequence.generated(), active.token_limit - sequence.prompt_length,
                        !active.grows());
  }
  sequence.finished = true;
  --active.unfinished;
  ReleaseSequence(sequence);
  Emit(active);
}

void EngineCore::FinishAll(ActiveRequest& active, FinishReason reason, absl::Time now) {
  for (const auto& sequence : active.sequences) {
    if (!sequence->finished) Finish(*sequence, reason, now);
  }
}

// A request that waits ends: one final event for each sample that has not had one.
void EngineCore::EndWaiting(ActiveRequest& active, FinishReason reason, absl::Time now) {
  const auto prompt = static_cast<int64_t>(active.request.prompt.size());
  FinishAll(active, reason, now);  // one that was preempted has begun to answer
  for (int sample = 0; sample < active.samples() && active.sequences.empty(); ++sample) {
    TokenEvent event;
    event.request = active.id;
    event.index = sample;
    event.finish = reason;
    event.stats = StatsOfUnstarted(prompt, now - active.submitted);
    active.sink->OnEvent(event);
  }
  by_id_.erase(active.id);
}

void EngineCore::Emit(ActiveRequest& active) {
  event_.request = active.id;
  event_.prompt_logprobs.clear();
  if (event_.index == 0) event_.prompt_logprobs.swap(active.prompt_logprobs);
  if (!active.sink->OnEvent(event_)) ++active.pauses;
}

void EngineCore::ReleaseSequence(Sequence& sequence) {
  if (sequence.slot < 0) return;
  target_state_->Release(sequence.slot);
  if (draft_state_ != nullptr) draft_state_->Release(sequence.slot);
  sampler_->Release(sequence.slot);
  free_slots_.push_back(sequence.slot);
  sequence.slot = -1;
}

void EngineCore::RemoveFinished() {
  for (const auto& active : active_) {
    if (active->unfinished > 0) continue;
    int64_t tokens = static_cast<int64_t>(active->request.prompt.size());
    for (const auto& sequence : active->sequences) tokens += sequence->generated();
    waiting_.Charge(active->request.principal, tokens - active->charged_tokens);
    by_id_.erase(active->id);
    ++ended_requests_;
  }
  active_.erase(std::remove_if(active_.begin(), active_.end(),
                               [](const std::unique_ptr<ActiveRequest>& active) {
                                 return active->unfinished == 0;
                               }),
                active_.end());
}

}  // namespace mambad
