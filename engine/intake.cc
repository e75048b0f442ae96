#include "engine/intake.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/retry_delay.h"

namespace mambad {

Intake::Intake(const EngineOptions& options, int64_t context)
    : max_waiting_(options.max_waiting),
      max_sequences_(options.max_sequences),
      max_waiting_tokens_(options.max_waiting_tokens),
      context_(context),
      free_slots_(options.max_sequences) {}

absl::Status Intake::Room(int64_t tokens) const {
  // Those that the next step starts do not wait.
  if (waiting() >= max_waiting_ + free_slots_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", waiting(), " requests wait"));
  }
  const int64_t waiting_tokens = core_waiting_tokens_ + handed_over_tokens_ + submitted_tokens_;
  if (waiting() > 0 && waiting_tokens + tokens > max_waiting_tokens_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", waiting_tokens, " prompt tokens wait"));
  }
  return absl::OkStatus();
}

absl::Status Intake::Ask(const Request& request, absl::Time now) {
  const auto tokens = static_cast<int64_t>(request.prompt.size());
  if (absl::Status full = Room(tokens); !full.ok()) return WithRetryDelay(full, RetryDelay(now));
  usual_ = usual_.value_or(DemandOf(request));
  usual_->tokens += 0.1 * (DemandOf(request).tokens - usual_->tokens);
  usual_->prompt += 0.1 * (DemandOf(request).prompt - usual_->prompt);
  ++submitted_;
  submitted_tokens_ += tokens;
  return absl::OkStatus();
}

void Intake::HandOver() {
  handed_over_ = submitted_;
  handed_over_tokens_ = submitted_tokens_;
  submitted_ = 0;
  submitted_tokens_ = 0;
}

void Intake::Publish(const EngineCore& core) {
  const EngineStats& stats = core.stats();
  core_waiting_ = stats.waiting;
  core_waiting_tokens_ = stats.waiting_tokens;
  free_slots_ = stats.slots_total - stats.slots_used;
  handed_over_ = 0;
  handed_over_tokens_ = 0;
  pace_ = core.pace();
  if (forecast_.made != core.forecast().made) forecast_ = core.forecast();
}

absl::Duration Intake::EstimatedWait(absl::Time now) const {
  // Those that the forecast does not know yet stand before it.
  return std::min(absl::Duration(absl::Minutes(10)),
                  forecast_.StartOf(waiting() - forecast_.waiting, now));
}

Intake::Demand Intake::DemandOf(const Request& request) const {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const bool named = request.stopping.max_tokens > 0;
  const int64_t room = context_ - prompt;
  const int64_t limit = named ? std::min(room, request.stopping.max_tokens) : room;
  const double tokens = request.score_from.has_value() ? 0 : pace_.TokensLeft(0, limit, named);
  return {tokens, static_cast<double>(prompt)};
}

absl::Duration Intake::RetryDelay(absl::Time now) {
  while (!promised_.empty() && promised_.front() <= now) promised_.pop_front();
  // Places in the queue come free one after the other: each caller is told of one of its own.
  // A bound to that, for who asks again at once is told of another.
  const size_t most =
      std::min<size_t>(1024, 2 * static_cast<size_t>(max_waiting_ + max_sequences_));
  const auto place = static_cast<int64_t>(promised_.size());
  absl::Duration wait = forecast_.RoomAfter(place, now) * 1.1;  // rather after than before
  // A burst is refused before the first step could forecast anything: nothing of it has run.
  if (forecast_.starts.empty() && usual_.has_value()) {
    const double each =
        usual_->tokens * pace_.SecondsAToken() + usual_->prompt * pace_.SecondsAPromptToken();
    wait = absl::Seconds(each * static_cast<double>(1 + place / max_sequences_));
  }
  wait = std::clamp(wait, absl::Milliseconds(10), absl::Duration(absl::Minutes(10)));
  if (promised_.size() < most) {
    promised_.insert(std::upper_bound(promised_.begin(), promised_.end(), now + wait), now + wait);
  }
  return wait;
}

}  // namespace mambad
