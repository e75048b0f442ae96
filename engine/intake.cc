#include "engine/intake.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "engine/retry_delay.h"

namespace mambad {
namespace {

constexpr absl::Duration kShortest = absl::Milliseconds(10), kLongest = absl::Minutes(10);
// What lies longer ago than that was not one step.
constexpr absl::Duration kLongestStep = absl::Seconds(1);
// The line's bound; those beyond are told as the last one.
constexpr size_t kLongestLine = 4096;
// Who is late by half of what it was told and this is out of the line.
constexpr absl::Duration kPatience = absl::Milliseconds(200);
// The same request again, before half of what its caller was told is over and within this of the
// time when it first was refused, is another caller's: of a burst.
constexpr absl::Duration kBurst = absl::Milliseconds(50);
// Who still asks after this without a pause is one caller, whatever it was taken for at first.
constexpr absl::Duration kPersistence = absl::Milliseconds(100);
constexpr double kReturnWeight = 0.05;  // of one caller in the share of those who come back
// The more stay away one after another, the less it is by chance: then each weighs more, to this.
constexpr double kMostAbsenceWeight = 0.5;
// The longest that one is sent away while nobody is known to have come back: this, and twice as
// long as those take to start who really wait. Each return adds as much.
constexpr double kUnprovenSeconds = 20, kUnprovenQueues = 2;
constexpr double kMargin = 1.2;  // rather after than before

size_t KeyOf(const Request& request) {
  return absl::HashOf(request.prompt, request.stopping.max_tokens, request.output.samples,
                      request.score_from);
}

}  // namespace

Intake::Intake(const Capacity& capacity, const EngineOptions& options, const EngineStats& stats,
               const ServiceDemands& demands)
    : capacity_(capacity),
      slots_(options.max_sequences),
      pages_(capacity.pages_total()),
      max_waiting_(options.max_waiting),
      max_waiting_tokens_(options.max_waiting_tokens) {
  Publish(stats, demands);
}

absl::Status Intake::Room(int64_t tokens, const KeptPlaces& kept) const {
  const auto full = [](int64_t waiting, const char* what, int64_t kept) {
    std::string message = absl::StrCat("the queue is full: ", waiting, what, " wait");
    if (kept > 0)
      absl::StrAppend(&message, ", and ", kept, " more, refused before, are expected now");
    return absl::ResourceExhaustedError(message);
  };
  // Those that the next step starts do not wait.
  if (waiting() + kept.requests >= max_waiting_ + free_slots_)
    return full(waiting(), " requests", kept.requests);
  const int64_t waiting_tokens = core_waiting_tokens_ + submitted_tokens_;
  if (waiting() > 0 && waiting_tokens + kept.prompt_tokens + tokens > max_waiting_tokens_)
    return full(waiting_tokens, " prompt tokens", kept.prompt_tokens);
  return absl::OkStatus();
}

absl::Status Intake::Ask(const Request& request, absl::Time now) {
  ForgetLate(now);
  Outside caller;
  caller.since = caller.told = now;
  // Idle until now: what comes first begins at once.
  if (demands_.running.empty() && waiting() == 0) demands_.made = now;
  caller.demand = capacity_.DemandOf(request, pace_);
  const int64_t tokens = caller.demand.prompt_tokens;
  absl::Status full = Room(tokens);
  KeptPlaces kept;
  if (!full.ok() || !line_.empty()) {
    caller.key = KeyOf(request);
    const bool known = Recognize(caller.key, now, &caller);
    kept = KeptBefore(caller, now);
    if (full.ok()) full = Room(tokens, kept);
    if (known && full.ok()) NoteReturn();
  }
  if (!full.ok()) {
    bool in_line = line_.size() < kLongestLine;
    const absl::Duration delay = RetryDelay(caller, kept, now, &in_line);
    caller.due = now + delay;
    const auto later = [&](absl::Time since, const Outside& other) { return since < other.since; };
    if (in_line) {
      line_.insert(std::upper_bound(line_.begin(), line_.end(), caller.since, later), caller);
    }
    return WithRetryDelay(full, delay);
  }
  submitted_.push_back(caller.demand);
  submitted_tokens_ += caller.demand.prompt_tokens;
  stale_ = true;
  return full;
}

void Intake::HandOver() { handed_over_ = submitted_.size(); }

void Intake::Publish(const EngineStats& stats, const ServiceDemands& demands) {
  core_waiting_ = stats.waiting;
  core_waiting_tokens_ = stats.waiting_tokens;
  free_slots_ = slots_ - stats.slots_used;
  for (size_t i = 0; i < handed_over_; ++i) submitted_tokens_ -= submitted_[i].prompt_tokens;
  submitted_.erase(submitted_.begin(), submitted_.begin() + static_cast<int64_t>(handed_over_));
  handed_over_ = 0;
  pace_ = demands.pace();
  last_step_ = demands.queue().made - demands_.made;  // endless before the first
  demands_ = demands.queue();
  stale_ = true;
}

absl::Duration Intake::EstimatedWait(absl::Time now) const {
  if (demands_.running.empty() && waiting() == 0) return absl::ZeroDuration();
  ServiceDemand next;  // like those that wait
  for (int i = 0; i < waiting(); ++i) next.pages += DemandAt(i).pages;
  next.pages /= std::max(1, waiting());
  WaitForecast forecast;
  forecast.Begin(slots_, pages_, demands_.running);
  for (int i = 0; i < waiting(); ++i) forecast.Add(DemandAt(i));
  return std::min(kLongest, FromNow(forecast.Add(next), now));
}

// ---- the line outside ---------------------------------------------------------------------------

Intake::KeptPlaces Intake::KeptBefore(const Outside& caller, absl::Time now) const {
  if (waiting() < free_slots_) return {};  // starts at once
  KeptPlaces kept;
  for (const Outside& other : line_) {
    if (other.since >= caller.since) break;
    if (!IsAsTold(other, now)) continue;
    ++kept.requests;
    // Smaller ones find room earlier, whoever was first.
    if (other.demand.prompt_tokens <= caller.demand.prompt_tokens)
      kept.prompt_tokens += other.demand.prompt_tokens;
  }
  kept.requests = std::llround(return_share_ * static_cast<double>(kept.requests));
  kept.prompt_tokens = std::llround(return_share_ * static_cast<double>(kept.prompt_tokens));
  return kept;
}

void Intake::ForgetLate(absl::Time now) {
  const auto late = [&](const Outside& caller) {
    if (now <= caller.due + (caller.due - caller.told) / 2 + kPatience) return false;
    NoteAbsence();
    return true;
  };
  line_.erase(std::remove_if(line_.begin(), line_.end(), late), line_.end());
}

void Intake::NoteReturn() {
  return_share_ += kReturnWeight * (1 - return_share_);
  returns_ = std::min(returns_ + 1, absl::ToDoubleSeconds(kLongest) / kUnprovenSeconds);
  absences_in_a_row_ = 0;
}

void Intake::NoteAbsence() {
  ++absences_in_a_row_;
  const double weight = std::min(kMostAbsenceWeight, kReturnWeight * absences_in_a_row_);
  return_share_ -= weight * return_share_;
  returns_ -= weight * returns_;
}

bool Intake::IsAsTold(const Outside& caller, absl::Time now) {
  return now - caller.told >= (caller.due - caller.told) / 2;
}

bool Intake::Recognize(size_t key, absl::Time now, Outside* caller) {
  const auto known = std::find_if(line_.begin(), line_.end(), [&](const Outside& other) {
    return other.key == key && (IsAsTold(other, now) || now - other.since >= kBurst);
  });
  if (known == line_.end()) return false;
  caller->since = known->since;
  if (IsAsTold(*known, now) || now - known->since < kPersistence) {
    line_.erase(known);
  } else {
    line_.erase(
        std::remove_if(known, line_.end(), [&](const Outside& other) { return other.key == key; }),
        line_.end());
  }
  return true;
}

absl::Duration Intake::RetryDelay(const Outside& caller, const KeptPlaces& kept, absl::Time now,
                                  bool* in_line) {
  int64_t ahead = 0;
  while (ahead < static_cast<int64_t>(line_.size()) && line_[ahead].since <= caller.since) ++ahead;
  double seconds = StartOf(StartsUntilRoom(caller, kept, ahead, return_share_));
  const double proven = 1 + returns_;
  if (seconds > proven * kUnprovenSeconds) {  // else the queue need not be played forward for it
    const double queue = StartOf(StartsUntilRoom(caller, {}, ahead, 0) + waiting());
    const double longest = proven * (kUnprovenSeconds + kUnprovenQueues * queue);
    *in_line &= seconds <= longest;
    seconds = std::min(seconds, longest);
  }
  // Room comes between steps only.
  const absl::Duration shortest =
      last_step_ <= kLongestStep ? std::max(last_step_, kShortest) : kShortest;
  return std::clamp(kMargin * FromNow(seconds, now), shortest, kLongest);
}

int64_t Intake::StartsUntilRoom(const Outside& caller, const KeptPlaces& kept, int64_t ahead,
                                double share) const {
  ahead = std::llround(share * static_cast<double>(ahead));
  int64_t place = std::max<int64_t>(0, waiting() + ahead - max_waiting_);
  int64_t surplus =
      core_waiting_tokens_ + submitted_tokens_ + caller.demand.prompt_tokens - max_waiting_tokens_;
  if (surplus + kept.prompt_tokens > 0) {
    int64_t smaller = 0;  // of those behind
    for (int64_t i = 0; i < static_cast<int64_t>(line_.size()); ++i) {
      const int64_t tokens = line_[i].demand.prompt_tokens;
      if (i < ahead) {
        surplus += tokens;
      } else if (tokens < caller.demand.prompt_tokens) {
        smaller += tokens;
      }
    }
    surplus += std::llround(share * static_cast<double>(smaller));
  }
  for (int64_t i = 0; i < waiting() + static_cast<int64_t>(line_.size()) && surplus > 0; ++i) {
    surplus -= DemandAt(i).prompt_tokens;
    place = std::max(place, i);
  }
  return place;
}

const ServiceDemand& Intake::DemandAt(int64_t place) const {
  const auto known = static_cast<int64_t>(demands_.waiting.size());
  if (place < known) return demands_.waiting[place];
  const auto submitted = static_cast<int64_t>(submitted_.size());
  if (place < known + submitted) return submitted_[place - known];
  return line_[place - known - submitted].demand;
}

double Intake::StartOf(int64_t place) {
  if (stale_) {
    forecast_.Begin(slots_, pages_, demands_.running);
    starts_.clear();
    stale_ = false;
  }
  const int64_t all = waiting() + static_cast<int64_t>(line_.size());
  while (static_cast<int64_t>(starts_.size()) <= place) {
    const auto next = static_cast<int64_t>(starts_.size());
    // One more than are there: as the last.
    starts_.push_back(forecast_.Add(all > 0 ? DemandAt(std::min(next, all - 1)) : ServiceDemand()));
  }
  return starts_[place];
}

absl::Duration Intake::FromNow(double seconds, absl::Time now) const {
  return std::max(absl::ZeroDuration(), absl::Seconds(seconds) - (now - demands_.made));
}

}  // namespace mambad
