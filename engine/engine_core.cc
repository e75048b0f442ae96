#include "engine/engine_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace mambad {
namespace {

constexpr absl::Duration kRateWindow = absl::Seconds(10);

int64_t Microseconds(absl::Duration duration) { return absl::ToInt64Microseconds(duration); }

TokenLogprob ToLogprob(TokenId id, const LogprobView& view, int alternatives) {
  TokenLogprob out;
  out.id = id;
  out.logprob = view.logprob;
  for (int i = 0; i < alternatives; ++i)
    out.alternatives.emplace_back(view.ids[i], view.logprobs[i]);
  return out;
}

void AddPosition(std::vector<int64_t>& histogram, size_t at) {
  if (histogram.size() <= at) histogram.resize(at + 1);
  ++histogram[at];
}

}  // namespace

EngineCore::~EngineCore() = default;

// ---- requests in
// -----------------------------------------------------------------------------------------------------

absl::Status EngineCore::Admit(RequestId id, Request request, std::shared_ptr<EventSink> sink,
                               absl::Time now) {
  const EngineOptions& options = facts_.options;
  const int64_t tokens = static_cast<int64_t>(request.prompt.size());
  // Those that the next step starts do not wait.
  const int64_t room = options.max_waiting + static_cast<int64_t>(free_slots_.size());
  if (static_cast<int64_t>(waiting_.size()) >= room) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", options.max_waiting, " requests wait"));
  }
  if (!waiting_.empty() && stats_.waiting_tokens + tokens > options.max_waiting_tokens) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", stats_.waiting_tokens,
                                                     " prompt tokens wait, at most ",
                                                     options.max_waiting_tokens));
  }
  auto active = std::make_unique<ActiveRequest>();
  active->id = id;
  active->request = std::move(request);
  active->sink = std::move(sink);
  active->submitted = now;
  const auto later = [&](const std::unique_ptr<ActiveRequest>& other) {
    return other->request.priority < active->request.priority;
  };
  by_id_[id] = active.get();
  stats_.waiting_tokens += tokens;
  waiting_.insert(std::find_if(waiting_.begin(), waiting_.end(), later), std::move(active));
  stats_.waiting = static_cast<int>(waiting_.size());
  return absl::OkStatus();
}

void EngineCore::Cancel(RequestId id) {
  if (auto it = by_id_.find(id); it != by_id_.end()) it->second->cancelled = true;
}

void EngineCore::Resume(RequestId id) {
  if (auto it = by_id_.find(id); it != by_id_.end()) it->second->paused = false;
}

void EngineCore::CancelAll() {
  for (auto& [id, active] : by_id_) active->cancelled = true;
}

absl::Time EngineCore::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, active] : by_id_) next = std::min(next, active->request.deadline);
  return next;
}

void EngineCore::set_speculation_enabled(bool enabled) {
  speculation_enabled_ = enabled && facts_.options.speculation;
  stats_.speculation_enabled = speculation_enabled_;
}

// ---- one step
// ----------------------------------------------------------------------------------------------------------

bool EngineCore::Step(absl::Time now) {
  EndLateAndCancelled(now);
  AdmitWaiting(now);
  ForkSamples();
  UpdateGauges(now);

  running_.clear();
  for (const auto& active : active_) {
    if (active->paused) continue;
    for (const auto& sequence : active->sequences) {
      const bool waits_for_fork = sequence->index > 0 && !active->forked;
      if (!sequence->finished && !waits_for_fork) running_.push_back(sequence.get());
    }
  }
  ChooseDrafts();
  scheduler_->Plan(running_, wished_drafts_, &plan_);
  if (plan_.empty()) return false;
  ProposeLookups();

  int alternatives = -1, score_alternatives = -1;
  for (StepEntry& entry : plan_) {
    const Sequence& sequence = *entry.sequence;
    const OutputParams& output = sequence.request->request.output;
    entry.limit = static_cast<int>(
        std::min<int64_t>(sequence.token_limit - static_cast<int64_t>(sequence.tokens.size()),
                          kernels::kMaxWindowRows + 1));
    alternatives = std::max(alternatives, output.logprobs);
    if (entry.scored > 0) score_alternatives = std::max(score_alternatives, output.prompt_logprobs);
  }
  const StepTimes times = decoder_->Run(absl::MakeSpan(plan_), alternatives, score_alternatives);

  const absl::Time after = absl::Now();
  for (StepEntry& entry : plan_) Deliver(entry, after);
  Account(times, after);
  RemoveFinished();
  return true;
}

void EngineCore::EndLateAndCancelled(absl::Time now) {
  const auto reason = [now](const ActiveRequest& active) {
    if (active.cancelled) return FinishReason::kCancelled;
    return active.request.deadline <= now ? FinishReason::kDeadline : FinishReason::kNone;
  };
  for (size_t i = 0; i < waiting_.size();) {
    const FinishReason why = reason(*waiting_[i]);
    if (why == FinishReason::kNone) {
      ++i;
      continue;
    }
    std::unique_ptr<ActiveRequest> active = std::move(waiting_[i]);
    waiting_.erase(waiting_.begin() + i);
    EndWaiting(*active, why, now);
  }
  for (const auto& active : active_) {
    const FinishReason why = reason(*active);
    if (why == FinishReason::kNone) continue;
    for (const auto& sequence : active->sequences) {
      if (!sequence->finished) Finish(*sequence, why, now);
    }
  }
  RemoveFinished();
}

// A request that never ran ends: one final event a sample.
void EngineCore::EndWaiting(ActiveRequest& active, FinishReason reason, absl::Time now) {
  stats_.waiting_tokens -= static_cast<int64_t>(active.request.prompt.size());
  for (int sample = 0; sample < active.samples(); ++sample) {
    TokenEvent event;
    event.request = active.id;
    event.index = sample;
    event.finish = reason;
    event.stats.emplace();
    event.stats->queue_microseconds = event.stats->total_microseconds =
        Microseconds(now - active.submitted);
    active.sink->OnEvent(event);
  }
  by_id_.erase(active.id);
}

// First come, first served within a priority; the head of the queue is never overtaken, so that a
// large request cannot starve.
void EngineCore::AdmitWaiting(absl::Time now) {
  while (!waiting_.empty() && Start(*waiting_.front(), now)) {
    std::unique_ptr<ActiveRequest> active = std::move(waiting_.front());
    waiting_.pop_front();
    stats_.waiting_tokens -= static_cast<int64_t>(active->request.prompt.size());
    const auto later = [&](const std::unique_ptr<ActiveRequest>& other) {
      return other->request.priority < active->request.priority;
    };
    active_.insert(std::find_if(active_.begin(), active_.end(), later), std::move(active));
  }
}

// Takes slots and pages for all samples of a request, or nothing.
bool EngineCore::Start(ActiveRequest& active, absl::Time now) {
  const Request& request = active.request;
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t context = facts_.model.context;
  active.token_limit = request.stopping.max_tokens > 0 && !active.scoring()
                           ? std::min(context, prompt + request.stopping.max_tokens)
                           : context;
  if (active.scoring()) active.token_limit = prompt;
  const int samples = active.samples();
  if (samples > static_cast<int>(free_slots_.size())) return false;
  for (StatePool* pool : {target_state_.get(), draft_state_.get()}) {
    if (pool != nullptr && samples * pool->PagesFor(active.token_limit) > pool->pages_free())
      return false;
  }

  active.stop_ids.clear();
  if (!request.stopping.ignore_eos) active.stop_ids = facts_.model.eos_ids;
  active.stop_ids.insert(active.stop_ids.end(), request.stopping.stop_token_ids.begin(),
                         request.stopping.stop_token_ids.end());
  active.admitted = now;
  active.unfinished = samples;
  active.forked = samples == 1;
  for (int sample = 0; sample < samples; ++sample) {
    auto sequence = std::make_unique<Sequence>();
    sequence->request = &active;
    sequence->index = sample;
    const int slot = free_slots_.back();
    free_slots_.pop_back();
    StartSequence(active, *sequence, slot);
    active.sequences.push_back(std::move(sequence));
  }
  return true;
}

void EngineCore::StartSequence(ActiveRequest& active, Sequence& sequence, int slot) {
  const Request& request = active.request;
  sequence.slot = slot;
  sequence.prompt_length = static_cast<int64_t>(request.prompt.size());
  sequence.token_limit = active.token_limit;
  sequence.tokens.reserve(active.token_limit + kernels::kMaxWindowRows + 1);
  sequence.tokens = request.prompt;
  sequence.stats.prompt_tokens = sequence.prompt_length;
  sequence.stats.speculation.accepted_per_position.reserve(kMaxDraftLength);
  sequence.stats.speculation.tokens_per_round.reserve(kMaxDraftLength + 2);
  target_state_->Acquire(slot, active.token_limit);
  if (draft_state_ != nullptr) draft_state_->Acquire(slot, active.token_limit);
  sampler_->Configure(slot, request.sampling, sequence.index, request.prompt, active.stop_ids,
                      sequence.prompt_length + request.stopping.min_tokens);
  if (facts_.tokenizer != nullptr) {
    text::Detokenizer::Options options;
    options.stop_strings = request.stopping.stop_strings;
    options.include_stop = request.stopping.include_stop;
    options.at_start_of_text = false;  // the answer goes on where the prompt ends
    absl::StatusOr<text::Detokenizer> detokenizer =
        text::Detokenizer::Create(facts_.tokenizer.get(), std::move(options));
    if (detokenizer.ok())
      sequence.detokenizer = *std::move(detokenizer);  // Validate has seen to it
  }
  const SpeculationMode mode = request.speculation.mode;
  if (facts_.options.speculation &&
      (mode == SpeculationMode::kPromptLookup ||
       (mode == SpeculationMode::kAuto && facts_.options.prompt_lookup))) {
    sequence.lookup.emplace();
    sequence.lookup->Reserve(active.token_limit);
    sequence.lookup->Append(request.prompt);
  }
}

// Samples share the reading of the prompt up to its last token, which each then reads for itself.
void EngineCore::ForkSamples() {
  for (const auto& active : active_) {
    if (active->forked || active->sequences.front()->finished) continue;
    Sequence& first = *active->sequences.front();
    if (first.target.fed < first.prompt_length - 1) continue;
    for (size_t i = 1; i < active->sequences.size(); ++i) {
      Sequence& sequence = *active->sequences[i];
      if (sequence.finished) continue;
      target_state_->Fork(first.slot, sequence.slot, first.target.fed);
      sequence.target = first.target;
    }
    active->forked = true;
  }
}

// ---- results out
// -------------------------------------------------------------------------------------------------------

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
  event_.text.clear();
  const int64_t kept = ReadText(sequence, entry, &matched);
  const bool first = sequence.generated() == 0;
  sequence.tokens.insert(sequence.tokens.end(), entry.tokens, entry.tokens + kept);
  if (sequence.lookup.has_value()) sequence.lookup->Append(absl::MakeConstSpan(entry.tokens, kept));
  if (first) {
    if (sequence.index == 0) active.prefilled = now;
    sequence.stats.prefill_microseconds = Microseconds(now - active.admitted);
    sequence.stats.first_token_microseconds = Microseconds(now - active.submitted);
  }

  event_.tokens.assign(entry.tokens, entry.tokens + kept);
  event_.logprobs.clear();
  for (int64_t i = 0; i < kept && request.output.logprobs >= 0; ++i) {
    event_.logprobs.push_back(
        ToLogprob(entry.tokens[i], decoder_->KeptLogprob(entry, i), request.output.logprobs));
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
  // The token that ends the text is no part of it, unless asked for.
  const bool hide_last = entry.stopped && !sequence.request->request.stopping.include_stop;
  const int visible = entry.kept - (hide_last ? 1 : 0);
  const text::Detokenizer::Output output =
      sequence.detokenizer->Push(absl::MakeConstSpan(entry.tokens, visible));
  event_.text.append(output.text);
  if (output.stop == text::Detokenizer::kNoStop) return entry.kept;
  *matched = sequence.request->request.stopping.stop_strings[output.stop];
  return static_cast<int64_t>(output.kept_tokens);
}

void EngineCore::CollectPromptLogprobs(const StepEntry& entry) {
  const Sequence& sequence = *entry.sequence;
  ActiveRequest& active = *sequence.request;
  const int alternatives = std::max(0, active.request.output.prompt_logprobs);
  for (int i = 0; i < entry.scored; ++i) {
    const int64_t next = entry.position + entry.score_begin + i + 1;
    active.prompt_logprobs.push_back(
        ToLogprob(sequence.tokens[next], decoder_->ScoredLogprob(entry, i), alternatives));
  }
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
    event_.logprobs.clear();
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
  sequence.finished = true;
  --active.unfinished;
  ReleaseSequence(sequence);
  Emit(active);
}

void EngineCore::Emit(ActiveRequest& active) {
  event_.request = active.id;
  event_.prompt_logprobs.clear();
  if (event_.index == 0) event_.prompt_logprobs.swap(active.prompt_logprobs);
  if (!active.sink->OnEvent(event_)) active.paused = true;
}

void EngineCore::ReleaseSequence(Sequence& sequence) {
  if (sequence.slot < 0) return;
  target_state_->Release(sequence.slot);
  if (draft_state_ != nullptr) draft_state_->Release(sequence.slot);
  free_slots_.push_back(sequence.slot);
  sequence.slot = -1;
}

void EngineCore::RemoveFinished() {
  for (const auto& active : active_) {
    if (active->unfinished > 0) continue;
    by_id_.erase(active->id);
    ++finished_requests_;
  }
  active_.erase(std::remove_if(active_.begin(), active_.end(),
                               [](const std::unique_ptr<ActiveRequest>& active) {
                                 return active->unfinished == 0;
                               }),
                active_.end());
}

// ---- counters
// ----------------------------------------------------------------------------------------------------------

void EngineCore::Account(const StepTimes& times, absl::Time now) {
  StepReport report;
  for (const StepEntry& entry : plan_) {
    report.sequences += 1;
    report.rows += entry.feed + entry.draft_length;
    if (entry.feed > 1 || !entry.sampled) report.prefill_rows += entry.feed;
    report.draft_length = std::max(report.draft_length, entry.draft_length);
    if (entry.feed > 1 || !entry.sampled) stats_.prompt_tokens += entry.feed;
    if (entry.draft_length == 0) continue;
    ++stats_.draft_rounds;
    stats_.draft_tokens += entry.draft_length;
    stats_.accepted_tokens += entry.accepted;
    rate_.drafted += entry.draft_length;
    rate_.accepted += entry.accepted;
    for (int i = 0; i < entry.accepted; ++i) AddPosition(stats_.accepted_per_position, i);
  }
  for (const StepEntry& entry : plan_) {
    SpeculationReport& speculation = entry.sequence->stats.speculation;
    speculation.draft_microseconds +=
        static_cast<int64_t>(1e6 * times.draft_seconds / report.sequences);
    speculation.verify_microseconds += static_cast<int64_t>(
        1e6 * times.verify_seconds * (entry.feed + entry.draft_length) / report.rows);
    rate_.tokens += entry.sampled ? entry.kept : 0;
  }
  report.draft_seconds = times.draft_seconds;
  report.verify_seconds = times.verify_seconds;
  report.total_seconds = times.draft_seconds + times.verify_seconds;
  stats_.draft_seconds += times.draft_seconds;
  (report.prefill_rows * 2 > report.rows ? stats_.prefill_seconds : stats_.verify_seconds) +=
      times.verify_seconds;
  ++stats_.steps;
  stats_.step_rows += report.rows;
  stats_.step_sequences += report.sequences;
  stats_.step_seconds += report.total_seconds;
  ObserveDrafts(times);
  if (observer_ != nullptr) observer_->OnStep(report);
  UpdateGauges(now);
}

void EngineCore::UpdateGauges(absl::Time now) {
  int running = 0;
  for (const auto& active : active_) running += active->unfinished > 0;
  stats_.running = running;
  stats_.waiting = static_cast<int>(waiting_.size());
  stats_.slots_total = facts_.options.max_sequences;
  stats_.slots_used = stats_.slots_total - static_cast<int>(free_slots_.size());
  stats_.pages_total = target_state_->pages_total();
  stats_.pages_used = stats_.pages_total - target_state_->pages_free();
  stats_.state_bytes = stats_.slots_used * target_state_->recurrent_bytes_per_slot() +
                       stats_.pages_used * target_state_->bytes_per_page();
  const absl::Duration span = now - rate_.begun;
  if (span < kRateWindow) return;
  if (rate_.begun != absl::InfinitePast()) {
    stats_.generation_tokens_per_second =
        static_cast<double>(rate_.tokens) / absl::ToDoubleSeconds(span);
    stats_.acceptance_rate =
        rate_.drafted > 0 ? static_cast<double>(rate_.accepted) / rate_.drafted : 0;
  }
  rate_ = {now, 0, 0, 0};
}

}  // namespace mambad
