#include "engine/wait_forecast.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace mambad {
namespace {

// Guesses for a model that has not run yet.
constexpr double kSecondsAToken = 0.02;
constexpr double kPromptTokenShare = 0.05;  // of the time that a token takes
// What one more answer changes of what is expected of the next.
constexpr double kAnswerWeight = 0.1;
// An answer that is longer than expected goes on for this share of its length.
constexpr double kLongerShare = 0.25;
// Answers that run are much longer than those that ended.
constexpr double kMuchLonger = 1.5;
// What a doubted measurement weighs.
constexpr double kDoubt = 1e-2;
// Less than this was not measured.
constexpr double kAlmostNothing = 1e-9;

}  // namespace

void ServicePace::Observe(const StepPace& step) {
  if (!(step.seconds > 0) || step.rows <= 0) return;
  const double kept = std::exp2(-step.seconds / kHalfLife);
  if (step.tokens > 0) {
    sequence_seconds_ = kept * sequence_seconds_ + step.seconds * step.decoding;
    tokens_ = kept * tokens_ + static_cast<double>(step.tokens);
  }
  if (step.prompt_rows > 0) {
    const double share = static_cast<double>(step.prompt_rows) / static_cast<double>(step.rows);
    prompt_seconds_ = kept * prompt_seconds_ + step.seconds * share;
    prompt_rows_ = kept * prompt_rows_ + static_cast<double>(step.prompt_rows);
  }
}

void ServicePace::ObserveAnswer(int64_t tokens, int64_t limit, bool named) {
  if (limit <= 0) return;
  const auto length = static_cast<double>(tokens);
  // The guess counts as one answer among the first.
  int& known = named ? named_answers_ : unnamed_answers_;
  const double weight = std::max(kAnswerWeight, 1.0 / (++known + 1));
  if (named) {
    named_share_ += weight * (length / static_cast<double>(limit) - named_share_);
  } else {
    unnamed_tokens_ += weight * (length - unnamed_tokens_);
  }
}

void ServicePace::Doubt() {
  const double seconds = kDoubt * sequence_seconds_, tokens = kDoubt * tokens_;
  *this = ServicePace();  // prompts and answers were too short to tell
  sequence_seconds_ = seconds;
  tokens_ = tokens;
}

bool ServicePace::is_measured() const { return tokens_ >= 1; }

double ServicePace::SecondsAToken() const {
  return tokens_ > kAlmostNothing ? sequence_seconds_ / tokens_ : kSecondsAToken;
}

double ServicePace::SecondsAPromptToken() const {
  return prompt_rows_ > kAlmostNothing ? prompt_seconds_ / prompt_rows_
                                       : kPromptTokenShare * SecondsAToken();
}

double ServicePace::TokensLeft(int64_t generated, int64_t limit, bool named) const {
  const auto most = static_cast<double>(std::max<int64_t>(0, limit - generated));
  const auto made = static_cast<double>(generated);
  // Those that run have so many already: longer answers have come into fashion.
  const bool longer = running_unnamed_tokens_ > kMuchLonger * unnamed_tokens_;
  const double unnamed = longer ? running_unnamed_tokens_ : unnamed_tokens_;
  const double expected = named ? named_share_ * static_cast<double>(limit) : unnamed;
  const double left = expected > made ? expected - made : std::max(1.0, kLongerShare * made);
  return std::min(most, left);
}

ServiceDemand ServicePace::Demand(const RequestSize& size) const {
  ServiceDemand demand;
  const double tokens = size.limit > 0 ? TokensLeft(0, size.limit, size.named) : 0;
  demand.reading = static_cast<double>(size.prompt) * SecondsAPromptToken();
  demand.seconds = tokens * SecondsAToken();
  demand.slots = size.samples;
  demand.prompt_tokens = size.prompt;
  return demand;
}

void WaitForecast::Begin(int64_t slots, int64_t pages, absl::Span<const ServiceDemand> running) {
  ends_.clear();
  free_slots_ = slots;
  free_pages_ = pages;
  now_ = read_until_ = 0;
  for (const ServiceDemand& demand : running) {
    ends_.push_back({EndOf(demand), demand.slots, demand.pages});
    free_slots_ -= demand.slots;
    free_pages_ -= demand.pages;
  }
  std::make_heap(ends_.begin(), ends_.end(), std::greater<>());
}

double WaitForecast::EndOf(const ServiceDemand& demand) {
  double read = now_;
  if (demand.reading > 0) read = read_until_ = std::max(read_until_, now_) + demand.reading;
  return read + demand.seconds;
}

double WaitForecast::Add(const ServiceDemand& demand) {
  while ((free_slots_ < demand.slots || free_pages_ < demand.pages) && !ends_.empty()) {
    std::pop_heap(ends_.begin(), ends_.end(), std::greater<>());
    now_ = std::max(now_, ends_.back().when);
    free_slots_ += ends_.back().slots;
    free_pages_ += ends_.back().pages;
    ends_.pop_back();
  }
  free_slots_ -= demand.slots;
  free_pages_ -= demand.pages;
  ends_.push_back({EndOf(demand), demand.slots, demand.pages});
  std::push_heap(ends_.begin(), ends_.end(), std::greater<>());
  return now_;
}

}  // namespace mambad
