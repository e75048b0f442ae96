#include "engine/engine_core.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mambad {
namespace {

// Answers of unknown length get pages for this many tokens at a time.
constexpr int64_t kGrowthTokens = 64;
static_assert(kGrowthTokens >= kStepTokens, "what starts can run a step");

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
      slots_(*parts_.slots),
      sampler_(*parts_.sampler),
      decoder_(*parts_.decoder),
      scheduler_({facts_.options.max_step_rows, MaxLogitRows(facts_.options)}),
      capacity_(facts_, parts_.target_state->cache_size(),
                parts_.draft_state == nullptr ? CacheSize() : parts_.draft_state->cache_size()),
      drafting_(facts_.options, facts_.draft_model.has_value()),
      demands_(capacity_, facts_.options.max_sequences),
      accounts_(slots_, *parts_.target_state),
      writer_(facts_, decoder_),
      observer_(observer) {
  const int sequences = facts_.options.max_sequences;
  plan_.reserve(sequences);
  running_.reserve(sequences);
  set_speculation_enabled(facts_.options.speculation);
  accounts_.SetGauges(active_, waiting_, absl::UnixEpoch());
}

EngineCore::~EngineCore() {
  if (launched_.has_value()) decoder_.Finish();
}

// ---- requests in --------------------------------------------------------------------------------

absl::Status EngineCore::Admit(RequestId id, Request request, std::shared_ptr<EventSink> sink,
                               absl::Time now) {
  const EngineOptions& options = facts_.options;
  const int64_t tokens = static_cast<int64_t>(request.prompt.size());
  // Those that the next step starts do not wait.
  const int64_t room = options.max_waiting + slots_.free();
  if (waiting_.size() >= room) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", waiting_.size(), " requests wait, at most ", room));
  }
  if (!waiting_.empty() && waiting_.prompt_tokens() + tokens > options.max_waiting_tokens) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", waiting_.prompt_tokens(),
                     " prompt tokens wait, at most ", options.max_waiting_tokens));
  }
  auto active = std::make_unique<ActiveRequest>();
  active->id = id;
  active->request = std::move(request);
  active->sink = std::move(sink);
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
  for (auto& [id, active] : by_id_) active->cancelled = true;
}

absl::Time EngineCore::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, active] : by_id_) next = std::min(next, active->request.deadline);
  return next;
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
  accounts_.SetGauges(active_, waiting_, absl::UnixEpoch());
}

// ---- one step -----------------------------------------------------------------------------------

bool EngineCore::Step(absl::FunctionRef<absl::Time()> clock) {
  if (launched_.has_value()) FinishRound(clock());
  const absl::Time now = clock();
  EndLateAndCancelled(now);
  GrowPages();
  AdmitWaiting(now);
  ForkSamples();
  SetBooks(now);
  PlanRound();
  if (plan_.empty()) {
    last_step_.reset();
  } else {
    LaunchRound(now);
  }
  Tell();
  if (launched_.has_value() && !backend_.RunsAhead()) {
    FinishRound(clock());
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
  drafting_.ReadLookups(running_);
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
void EngineCore::FinishRound(absl::Time now) {
  const StepTimes times = decoder_.Finish();
  for (const StepEntry& entry : plan_) {
    const AnswerWriter::Written written = writer_.Write(entry, now);
    accounts_.CountTokens(written.kept);
    if (written.finish != FinishReason::kNone) Close(*entry.answer, written.finish);
  }
  const StepReport report = accounts_.CountStep(plan_, times, now);
  demands_.ObserveStep(plan_, absl::ToDoubleSeconds(now - last_step_.value_or(*launched_)));
  drafting_.Observe(plan_, times);
  if (observer_ != nullptr) observer_->OnStep(report);
  last_step_ = now;
  launched_.reset();
  RemoveFinished();
  SetBooks(now);
}

// What others read between two steps.
void EngineCore::SetBooks(absl::Time now) {
  accounts_.SetGauges(active_, waiting_, now);
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

// ---- slots and pages ----------------------------------------------------------------------------

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
  while (!waiting_.empty() && slots_.free() > 0) {
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

// Positions that a sequence gets pages for when it starts or grows.
int64_t EngineCore::Reservation(const ActiveRequest& active, int64_t tokens) const {
  return active.grows() ? std::min(active.token_limit, tokens + kGrowthTokens) : active.token_limit;
}

SlotTable::Need EngineCore::NeedOf(const ActiveRequest& active, int sample, int64_t tokens) const {
  return {Reservation(active, tokens), active.ForkedAt(sample)};
}

// Takes slots, pages and rows of tables for all samples of a request, or nothing. One that was
// preempted goes on with the tokens that its samples have: they are its backlog.
bool EngineCore::Start(ActiveRequest& active, absl::Time now) {
  const Request& request = active.request;
  const bool anew = active.preempted_at.has_value();
  active.token_limit = capacity_.TokenLimit(request);
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  std::vector<SlotTable::Need> needs;
  for (int sample = 0; sample < active.samples(); ++sample) {
    if (anew && active.answers[sample]->finished) continue;
    const int64_t tokens = anew ? active.answers[sample]->sequence.size() : prompt;
    needs.push_back(NeedOf(active, sample, tokens));
  }
  if (!slots_.Fits(needs)) return false;
  if (!sampler_.HasRoom(request.sampling, static_cast<int>(needs.size()))) return false;

  if (!anew) PrepareAnswers(active, now);
  for (const auto& answer : active.answers) {
    if (!answer->finished) TakeSlot(active, *answer);
  }
  active.preempted_at.reset();
  return true;
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

void EngineCore::TakeSlot(ActiveRequest& active, Answer& answer) {
  const Request& request = active.request;
  Sequence& sequence = answer.sequence;
  sequence.slot = slots_.Take(NeedOf(active, answer.index, sequence.size()));
  SlotSampling sampling{request.sampling};
  sampling.sample = answer.index;
  sampling.logprobs = request.output.logprobs;
  sampling.prompt = request.prompt;
  sampling.answer = absl::MakeConstSpan(sequence.tokens).subspan(answer.prompt_length);
  sampling.stop_ids = active.stop_ids;
  sampling.stop_from = answer.prompt_length + request.stopping.min_tokens;
  sampler_.Configure(sequence.slot, sampling);
}

// Gives answers of unknown length the pages that their next step may need. Where none are left, the
// youngest of them is preempted: those that named their length keep what they have, and the oldest
// that did not runs on, so that something always can.
void EngineCore::GrowPages() {
  for (size_t i = 0; i < active_.size();) {
    ActiveRequest& active = *active_[i];
    if (!active.grows() || Grow(active)) {
      ++i;
      continue;
    }
    size_t youngest = active_.size() - 1;
    while (!active_[youngest]->grows()) --youngest;  // ends at `i` at the latest
    Preempt(youngest);
  }
}

// False: too few pages are free for one of its samples.
bool EngineCore::Grow(ActiveRequest& active) {
  for (const auto& answer : active.answers) {
    if (answer->finished) continue;
    const int64_t tokens = answer->sequence.size();
    const int64_t needed = std::min(active.token_limit, tokens + kStepTokens);
    if (!slots_.Extend(answer->sequence.slot, needed, Reservation(active, tokens))) return false;
  }
  return true;
}

// Back into the queue, before those that came later: slots and pages are given back, the text stays
// and is read again.
void EngineCore::Preempt(size_t index) {
  std::unique_ptr<ActiveRequest> active = std::move(active_[index]);
  active_.erase(active_.begin() + static_cast<int64_t>(index));
  for (const auto& answer : active->answers) {
    Release(answer->sequence);
    answer->sequence.target = answer->sequence.draft = {};
  }
  active->preempted_at = ended_requests_;
  if (active->forked) active->shares_prompt = false;  // each sample reads its own text again
  accounts_.CountPreemption();
  // It will be charged anew.
  waiting_.Charge(active->request.principal, -active->charged_tokens);
  waiting_.Add(std::move(active));
}

// Samples share the reading of the prompt up to its last token, which each then reads for itself.
void EngineCore::ForkSamples() {
  for (const auto& active : active_) {
    if (active->forked || active->answers.front()->finished) continue;
    const Sequence& first = active->answers.front()->sequence;
    if (first.target.fed < active->answers.front()->prompt_length - 1) continue;
    for (size_t i = 1; i < active->answers.size(); ++i) {
      if (active->answers[i]->finished) continue;
      Sequence& sequence = active->answers[i]->sequence;
      slots_.Fork(first.slot, sequence.slot, first.target.fed);
      sequence.target = first.target;
    }
    active->forked = true;
  }
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
  Release(answer.sequence);
}

void EngineCore::Release(Sequence& sequence) {
  if (sequence.slot < 0) return;
  sampler_.Release(sequence.slot);
  slots_.Release(sequence.slot);
  sequence.slot = -1;
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
