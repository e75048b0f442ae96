#include "engine/wait_forecast.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

namespace mambad {
namespace {

// Guesses for a model that has not run yet.
constexpr double kSecondsAToken = 0.02, kSecondsAPromptToken = 0.001;
// What one more answer changes of what is expected of the next.
constexpr double kAnswerWeight = 0.1;
// An answer that is longer than expected goes on for this share of its length.
constexpr double kLongerShare = 0.25;

}  // namespace

void ServicePace::Observe(double seconds, int decoding, int64_t tokens, int64_t prompt_rows,
                          int64_t rows) {
  if (!(seconds > 0) || rows <= 0) return;
  const double kept = std::exp2(-seconds / kHalfLife);
  sequence_seconds_ *= kept;
  tokens_ *= kept;
  prompt_seconds_ *= kept;
  prompt_rows_ *= kept;
  if (tokens > 0) {
    sequence_seconds_ += seconds * decoding;
    tokens_ += static_cast<double>(tokens);
  }
  prompt_seconds_ += seconds * static_cast<double>(prompt_rows) / static_cast<double>(rows);
  prompt_rows_ += static_cast<double>(prompt_rows);
}

void ServicePace::ObserveAnswer(int64_t tokens, int64_t limit, bool named) {
  if (limit <= 0) return;
  const auto length = static_cast<double>(tokens);
  if (named) {
    named_share_ += kAnswerWeight * (length / static_cast<double>(limit) - named_share_);
  } else {
    unnamed_tokens_ += kAnswerWeight * (length - unnamed_tokens_);
  }
}

double ServicePace::SecondsAToken() const {
  return tokens_ > 1e-3 ? sequence_seconds_ / tokens_ : kSecondsAToken;
}

double ServicePace::SecondsAPromptToken() const {
  return prompt_rows_ > 1e-3 ? prompt_seconds_ / prompt_rows_ : kSecondsAPromptToken;
}

double ServicePace::TokensLeft(int64_t generated, int64_t limit, bool named) const {
  const auto most = static_cast<double>(std::max<int64_t>(0, limit - generated));
  const auto made = static_cast<double>(generated);
  const double expected = named ? named_share_ * static_cast<double>(limit) : unnamed_tokens_;
  const double left = expected > made ? expected - made : std::max(1.0, kLongerShare * made);
  return std::min(most, left);
}

absl::Duration WaitForecast::At(int64_t place, absl::Time now) const {
  if (starts.empty()) return absl::ZeroDuration();
  const auto known = static_cast<int64_t>(starts.size());
  double seconds = starts[static_cast<size_t>(std::min(place, known - 1))];
  // Beyond what was played it goes on as it went.
  if (place >= known) seconds *= static_cast<double>(place + 1) / static_cast<double>(known);
  return std::max(absl::ZeroDuration(), absl::Seconds(seconds) - (now - made));
}

void ForecastWaits(absl::Span<const ServiceDemand> running, absl::Span<const ServiceDemand> waiting,
                   int slots, int behind, WaitForecast* forecast) {
  forecast->starts.clear();
  forecast->waiting = static_cast<int>(waiting.size());
  // Ends of what holds slots, the next one first.
  std::vector<std::pair<double, int>> ends;
  ends.reserve(running.size() + waiting.size() + static_cast<size_t>(behind));
  int free = slots;
  double sum = 0;
  for (const ServiceDemand& demand : running) {
    ends.emplace_back(demand.seconds, demand.slots);
    free -= demand.slots;
  }
  const std::greater<> later;
  std::make_heap(ends.begin(), ends.end(), later);
  for (const ServiceDemand& demand : waiting) sum += demand.seconds;
  // Those who come later are taken to be like those who wait, or who run.
  ServiceDemand mean;
  if (!waiting.empty()) {
    mean.seconds = sum / static_cast<double>(waiting.size());
  } else {
    for (const ServiceDemand& demand : running) mean.seconds += demand.seconds;
    mean.seconds /= static_cast<double>(std::max<size_t>(1, running.size()));
  }
  double now = 0;
  for (size_t i = 0; i < waiting.size() + static_cast<size_t>(behind); ++i) {
    const ServiceDemand& demand = i < waiting.size() ? waiting[i] : mean;
    while (free < demand.slots && !ends.empty()) {
      std::pop_heap(ends.begin(), ends.end(), later);
      now = std::max(now, ends.back().first);
      free += ends.back().second;
      ends.pop_back();
    }
    free -= demand.slots;
    forecast->starts.push_back(now);
    ends.emplace_back(now + demand.seconds, demand.slots);
    std::push_heap(ends.begin(), ends.end(), later);
  }
}

}  // namespace mambad
