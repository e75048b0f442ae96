#include "engine/engine_core.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/memory_plan.h"
#include "engine/opening/opening.h"
#include "engine/retry_delay.h"

namespace mambad {
namespace {

// Of what a request is told to come back after.
constexpr absl::Duration kShortestDelay = absl::Milliseconds(10), kLongestDelay = absl::Minutes(10);

}  // namespace

absl::StatusOr<std::unique_ptr<EngineCore>> EngineCore::Open(
    const EngineOptions& options, StepObserver* observer, std::unique_ptr<kernels::Backend> backend,
    DeviceLostHandler lost) {
  absl::StatusOr<EngineParts> parts = OpenParts(options, std::move(backend), std::move(lost));
  if (!parts.ok()) return parts.status();
  const MemoryPlan memory = parts->facts.memory;
  const EngineOptions resolved = parts->facts.options;
  try {  // the core's own lists are no part of the plan
    return std::make_unique<EngineCore>(*std::move(parts), observer);
  } catch (const std::bad_alloc&) {
    return OutOfMemory(memory, resolved);
  }
}

EngineCore::EngineCore(EngineParts parts, StepObserver* observer)
    : parts_(std::move(parts)),
      facts_(parts_.facts),
      backend_(*parts_.backend),
      decoder_(*parts_.decoder),
      scheduler_({facts_.options.max_step_rows, MaxLogitRows(facts_.options),
                  facts_.options.prefix_cache_bytes > 0 ? kPromptGrid : kOpenPromptGrid}),
      capacity_(facts_, parts_.target_state->cache_size(),
                parts_.draft_state == nullptr ? CacheSize() : parts_.draft_state->cache_size()),
      slots_(*parts_.slots, *parts_.sampler),
      sessions_(*parts_.slots, backend_, parts_.sessions, parts_.session_memory,
                parts_.session_files.get()),
      prefixes_(*parts_.target_state, backend_, facts_.options.prefix_cache_bytes),
      drafting_(facts_.options, facts_.draft_model.has_value()),
      demands_(capacity_, facts_.options.max_sequences),
      accounts_(*parts_.slots, *parts_.target_state),
      writer_(facts_, decoder_),
      observer_(observer) {
  const int sequences = facts_.options.max_sequences;
  plan_.reserve(sequences);
  running_.reserve(sequences);
  set_speculation_enabled(facts_.options.speculation);
  SetGauges(absl::UnixEpoch());
}

EngineCore::~EngineCore() {
  if (launched_.has_value()) decoder_.Finish();
  parts_.session_files.reset();  // what is being written is written
}

// ---- requests in --------------------------------------------------------------------------------

absl::Status EngineCore::Admit(RequestId id, Request request, std::shared_ptr<EventSink> sink,
                               absl::Time now) {
  const EngineOptions& options = facts_.options;
  const int64_t tokens = static_cast<int64_t>(request.prompt.size());
  // Those that the next step starts do not wait.
  const int64_t room = options.max_waiting + slots_.free() + sessions_.resting();
  if (waiting_.size() >= room) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", waiting_.size(), " requests wait, at most ", room));
  }
  if (!waiting_.empty() && waiting_.prompt_tokens() + tokens > options.max_waiting_tokens) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", waiting_.prompt_tokens(),
                     " prompt tokens wait, at most ", options.max_waiting_tokens));
  }
  if (absl::Status late = CheckDeadline(request, now); !late.ok()) return late;
  auto active = std::make_unique<ActiveRequest>();
  active->id = id;
  active->request = std::move(request);
  active->sink = std::move(sink);
  if (active->request.keep_session && active->request.session != nullptr)
    active->sink = sessions_.Hold(active->request.session, std::move(active->sink));
  active->submitted = now;
  if (active->request.output.echo && !active->request.echo_text && facts_.tokenizer != nullptr) {
    active->request.echo_text =
        facts_.tokenizer->Decode(active->request.prompt, /*skip_special=*/true);
  }
  by_id_[id] = active.get();
  waiting_.Add(std::move(active));
  accounts_.SetWaiting(waiting_);
  return absl::OkStatus();
}

// One whose time would pass while it waits is told so now: it may be in time elsewhere. Its own
// length is its caller's business, and so is what nobody has measured yet.
absl::Status EngineCore::CheckDeadline(const Request& request, absl::Time now) {
  const bool starts_at_once =
      waiting_.empty() && slots_.free() + sessions_.resting() >= request.output.samples;
  if (request.deadline == absl::InfiniteFuture() || starts_at_once ||
      !demands_.pace().is_measured()) {
    return absl::OkStatus();
  }
  const auto place = static_cast<size_t>(waiting_.PlaceOf(request, now));
  const ServiceDemands::Times times =
      demands_.Foresee(request, absl::MakeConstSpan(waiting_.in_order()).subspan(0, place), now);
  const double left = absl::ToDoubleSeconds(request.deadline - now);
  const double alone = times.reading + times.answer;
  const bool in_time_alone = request.stopping.max_tokens > 0 && alone <= left;
  const double needed = times.start + (in_time_alone ? alone : times.reading);
  if (needed <= left) return absl::OkStatus();
  const absl::Duration delay =
      std::clamp(absl::Seconds(needed - left), kShortestDelay, kLongestDelay);
  return WithRetryDelay(
      absl::ResourceExhaustedError(absl::StrFormat(
          "the deadline cannot be met: it would wait for %.3g s, and the caller for %.3g s",
          times.start, left)),
      delay);
}

void EngineCore::Cancel(RequestId id) {
  if (auto it = by_id_.find(id); it != by_id_.end()) it->second->cancelled = true;
}

void EngineCore::Pause(RequestId id) {
  if (auto it = by_id_.find(id); it != by_id_.end()) ++it->second->pauses;
}

void EngineCore::Resume(RequestId id) {
  if (auto it = by_id_.find(id); it != by_id_.end()) --it->second->pauses;
}

void EngineCore::CancelAll() {
  for (auto& [id, active] : by_id_) active->cancelled = active->drained = true;
}

absl::Time EngineCore::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, active] : by_id_) next = std::min(next, active->request.deadline);
  return std::min(next, sessions_.table()->NextExpiry());
}

void EngineCore::set_speculation_enabled(bool enabled) {
  drafting_.set_enabled(enabled);
  accounts_.set_speculation_enabled(drafting_.enabled());
}

void EngineCore::ForgetHistory() {
  accounts_.Forget();
  drafting_.Forget();
  demands_.Doubt();
  last_step_.reset();
  ended_requests_ = 0;
  SetGauges(absl::UnixEpoch());
}

// ---- one step -----------------------------------------------------------------------------------

bool EngineCore::Step(absl::FunctionRef<absl::Time()> clock) {
  if (launched_.has_value()) {
    FinishRound(clock);
    demands_.ObserveRunning(active_);  // all else that the round changed is told below
  }
  const absl::Time now = clock();
  sessions_.Advance(now);
  KeepPrefixes();
  EndLateAndCancelled(now);
  GrowPages();
  AdmitWaiting(now);
  for (const auto& active : active_) slots_.Fork(*active);
  SetBooks(now);
  PlanRound();
  if (plan_.empty()) {
    last_step_.reset();
  } else {
    LaunchRound(now);
  }
  Tell();
  if (launched_.has_value()) drafting_.ReadLookups(running_);
  if (launched_.has_value() && !backend_.RunsAhead()) {
    SetBooks(FinishRound(clock));
    Tell();
  }
  return !plan_.empty();
}

// What every answer that may run is to do.
void EngineCore::PlanRound() {
  running_.clear();
  for (const auto& active : active_) {
    if (active->pauses > 0) continue;
    for (const auto& answer : active->answers) {
      const bool waits_for_fork = answer->index > 0 && !active->forked;
      if (!answer->finished && !waits_for_fork) running_.push_back(answer.get());
    }
  }
  scheduler_.Plan(running_, drafting_.Choose(running_), &plan_);
  drafting_.ProposeLookups(absl::MakeSpan(plan_));
  for (StepEntry& entry : plan_) {
    const int64_t room = entry.answer->token_limit - entry.sequence->size();
    entry.limit = static_cast<int>(std::min<int64_t>(room, kStepTokens));
  }
}

void EngineCore::LaunchRound(absl::Time now) {
  int alternatives = -1, score_alternatives = -1;
  for (const StepEntry& entry : plan_) {
    const OutputParams& output = entry.answer->request->request.output;
    alternatives = std::max(alternatives, output.logprobs);
    if (entry.scored > 0) score_alternatives = std::max(score_alternatives, output.prompt_logprobs);
  }
  decoder_.Launch(absl::MakeSpan(plan_), alternatives, score_alternatives);
  launched_ = now;
}

// What the round has kept becomes events, and what ended with it gives everything back.
absl::Time EngineCore::FinishRound(absl::FunctionRef<absl::Time()> clock) {
  const StepTimes times = decoder_.Finish();
  const absl::Time now = clock();
  for (const StepEntry& entry : plan_) {
    const AnswerWriter::Written written = writer_.Write(entry, now);
    accounts_.CountTokens(written.kept);
    if (written.finish != FinishReason::kNone) Close(*entry.answer, written.finish);
  }
  const StepReport report = accounts_.CountStep(plan_, times, now);
  const double seconds = absl::ToDoubleSeconds(now - last_step_.value_or(*launched_));
  demands_.ObserveStep(plan_, seconds);
  drafting_.Observe(plan_, times, seconds);
  if (observer_ != nullptr) observer_->OnStep(report);
  last_step_ = now;
  launched_.reset();
  RemoveFinished();
  return now;
}

void EngineCore::SetGauges(absl::Time now) {
  accounts_.SetGauges(active_, waiting_, backend_.Recorded(), sessions_.resting(), now);
  SessionCounters sessions = sessions_.counters();
  prefixes_.AddCounters(&sessions);
  accounts_.SetSessions(sessions);
}

// What others read between two steps.
void EngineCore::SetBooks(absl::Time now) {
  SetGauges(now);
  demands_.Update(active_, waiting_.in_order(), now);
}

void EngineCore::Tell() {
  writer_.Tell([this](RequestId id) { Pause(id); });
}

void EngineCore::EndLateAndCancelled(absl::Time now) {
  const auto reason = [now](const ActiveRequest& active) {
    if (active.cancelled) return FinishReason::kCancelled;
    return active.request.deadline <= now ? FinishReason::kDeadline : FinishReason::kNone;
  };
  const auto ends = [&](const ActiveRequest& active) {
    return reason(active) != FinishReason::kNone;
  };
  for (const auto& active : waiting_.TakeOut(ends)) EndWaiting(*active, reason(*active), now);
  for (const auto& active : active_) {
    const FinishReason why = reason(*active);
    if (why != FinishReason::kNone) FinishAll(*active, why, now);
  }
  RemoveFinished();
}

// ---- who runs -----------------------------------------------------------------------------------

// In the queue's order. One that was preempted starts anew when a request has ended since: else it
// would be preempted again before long, and its text read over and over; until then it is not
// passed by others that grow, which would take the same pages.
void EngineCore::AdmitWaiting(absl::Time now) {
  bool preempted_waits = false;
  const auto starts = [&](ActiveRequest& active) {
    if (preempted_waits && active.grows()) return false;
    if (active.preempted_at == ended_requests_ && !active_.empty()) {
      preempted_waits = true;
      return false;
    }
    return Start(active, now);
  };
  while (!waiting_.empty() && slots_.free() + sessions_.resting() > 0) {
    std::unique_ptr<ActiveRequest> active = waiting_.TakeNext(starts, now);
    if (active == nullptr) return;
    active->charged_tokens = demands_.ExpectedTokens(active->request);
    waiting_.Charge(active->request.principal, active->charged_tokens);
    const auto later = [&](const std::unique_ptr<ActiveRequest>& other) {
      return active->GoesBefore(*other);
    };
    active_.insert(std::find_if(active_.begin(), active_.end(), later), std::move(active));
  }
}

// Gives a request all that it needs to run, or changes nothing of the engine.
bool EngineCore::Start(ActiveRequest& active, absl::Time now) {
  active.token_limit = capacity_.TokenLimit(active.request);
  const bool begins = !active.preempted_at.has_value();
  KeptSession* session = nullptr;
  int slot = -1;  // that the session has
  if (begins && active.request.session != nullptr) {
    const auto& held = SessionTable::SessionOf(*active.request.session);
    if (!sessions_.Prepare(held, active.request.session_position, active.request.keep_session))
      return false;
    session = held.get();
    slot = sessions_.SlotFor(*session, active.request.session_position);
  }
  const std::vector<RequestSlots::Need> needs = slots_.NeedsOf(active);
  while (!slots_.Fits(active, needs, slot)) {
    // Its own slot, too, where it goes on from an earlier state.
    if (!sessions_.ParkOldest(slot < 0 ? nullptr : session)) return false;
  }
  if (begins) PrepareAnswers(active, now);
  if (session == nullptr) {
    slots_.Take(active, needs);
  } else {
    GoOn(active, *session, needs);
  }
  if (begins) UsePrefixes(active);
  active.preempted_at.reset();
  return true;
}

// The answer goes on where its session is.
void EngineCore::GoOn(ActiveRequest& active, KeptSession& session,
                      absl::Span<const RequestSlots::Need> needs) {
  Sequence& sequence = active.answers.front()->sequence;
  const int64_t position = active.request.session_position;
  sessions_.Give(session, position, sequence);
  slots_.Take(active, needs);
  const std::optional<SessionRestore> restored = sessions_.Restore(session, position, sequence);
  if (restored.has_value() && observer_ != nullptr) observer_->OnSessionRestored(*restored);
}

// What is not read of the prompt by now may have been read for another one; what was is counted.
void EngineCore::UsePrefixes(ActiveRequest& active) {
  const Request& request = active.request;
  Answer& answer = *active.answers.front();
  const bool wants_logits = active.scoring() || request.output.prompt_logprobs >= 0;
  if (request.prefix_cache && !wants_logits && answer.sequence.target.fed == 0)
    active.prefix_places = prefixes_.Begin(request.principal, request.prompt, answer.sequence);
  const int64_t read = answer.sequence.target.fed;
  if (read == 0) return;
  active.prompt_rows_counted = read;
  for (const auto& each : active.answers) each->stats.cached_tokens = read;
  accounts_.CountCached(read);
}

void EngineCore::KeepPrefixes() {
  for (const auto& active : active_) {
    if (active->prefix_places.left.empty() || active->answers.front()->finished) continue;
    prefixes_.Keep(active->answers.front()->sequence, active->prefix_places);
  }
}

// What a request's samples need besides slots, once.
void EngineCore::PrepareAnswers(ActiveRequest& active, absl::Time now) {
  const Request& request = active.request;
  if (!request.stopping.ignore_eos) active.stop_ids = facts_.model.eos_ids;
  active.stop_ids.insert(active.stop_ids.end(), request.stopping.stop_token_ids.begin(),
                         request.stopping.stop_token_ids.end());
  active.admitted = now;
  active.unfinished = active.samples();
  active.forked = active.samples() == 1;
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t reserve = std::min(active.token_limit, prompt + kTextReserve) + kStepTokens;
  for (int sample = 0; sample < active.samples(); ++sample) {
    Answer& answer = *active.answers.emplace_back(std::make_unique<Answer>());
    Sequence& sequence = answer.sequence;
    answer.request = &active;
    answer.index = sample;
    answer.prompt_length = prompt;
    answer.token_limit = active.token_limit;
    sequence.tokens.reserve(reserve);
    sequence.tokens = request.prompt;
    writer_.Begin(answer);
    drafting_.Begin(answer);
  }
}

// Gives answers of unknown length the pages that their next step may need. Where none are left, the
// youngest of them is preempted: those that named their length keep what they have, and the oldest
// that did not runs on, so that something always can.
void EngineCore::GrowPages() {
  for (size_t i = 0; i < active_.size();) {
    ActiveRequest& active = *active_[i];
    if (!active.grows() || slots_.Grow(active)) {
      ++i;
      continue;
    }
    if (sessions_.ParkOldest(/*except=*/nullptr)) continue;
    size_t youngest = active_.size() - 1;
    while (!active_[youngest]->grows()) --youngest;  // ends at `i` at the latest
    Preempt(youngest);
  }
}

// Back into the queue, before those that came later: slots and pages are given back, the text stays
// and is read again.
void EngineCore::Preempt(size_t index) {
  std::unique_ptr<ActiveRequest> active = std::move(active_[index]);
  active_.erase(active_.begin() + static_cast<int64_t>(index));
  for (const auto& answer : active->answers) {
    slots_.Release(answer->sequence);
    answer->sequence.target = answer->sequence.draft = {};
  }
  active->preempted_at = ended_requests_;
  if (active->forked) active->shares_prompt = false;  // each sample reads its own text again
  accounts_.CountPreemption();
  // It will be charged anew.
  waiting_.Charge(active->request.principal, -active->charged_tokens);
  waiting_.Add(std::move(active));
}

// ---- ways out -----------------------------------------------------------------------------------

// Without new tokens.
void EngineCore::Finish(Answer& answer, FinishReason reason, absl::Time now) {
  writer_.End(answer, reason, now);
  Close(answer, reason);
}

void EngineCore::FinishAll(ActiveRequest& active, FinishReason reason, absl::Time now) {
  for (const auto& answer : active.answers) {
    if (!answer->finished) Finish(*answer, reason, now);
  }
}

// A request that waits ends: one final event for each sample that has not had one.
void EngineCore::EndWaiting(ActiveRequest& active, FinishReason reason, absl::Time now) {
  FinishAll(active, reason, now);  // one that was preempted has begun to answer
  if (active.answers.empty()) writer_.EndUnstarted(active, reason, now);
  by_id_.erase(active.id);
}

// An answer whose last event is written gives everything back, before its reader is told.
void EngineCore::Close(Answer& answer, FinishReason reason) {
  const bool ended_itself = reason == FinishReason::kEos || reason == FinishReason::kStop ||
                            reason == FinishReason::kLength;
  if (ended_itself) demands_.ObserveAnswer(answer);
  answer.finished = true;
  --answer.request->unfinished;
  if (answer.request->KeepsSession(reason)) {
    slots_.Rest(answer.sequence);
    const Request& request = answer.request->request;
    sessions_.Rest(request.session, request.session_position, answer.sequence,
                   answer.session_digest);
  }
  slots_.Release(answer.sequence);
}

void EngineCore::RemoveFinished() {
  for (const auto& active : active_) {
    if (active->unfinished > 0) continue;
    int64_t tokens = static_cast<int64_t>(active->request.prompt.size());
    for (const auto& answer : active->answers) tokens += answer->generated();
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
