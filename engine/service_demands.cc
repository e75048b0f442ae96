#include "engine/service_demands.h"

#include <algorithm>

namespace mambad {

ServiceDemands::ServiceDemands(const Capacity& capacity, int max_sequences)
    : capacity_(capacity), slots_(max_sequences) {
  queue_.running.reserve(max_sequences);
}

int64_t ServiceDemands::ExpectedTokens(const Request& request) const {
  const RequestSize size = capacity_.SizeOf(request);
  const double answer = size.limit > 0 ? pace_.TokensLeft(0, size.limit, size.named) : 0;
  return size.prompt + size.samples * static_cast<int64_t>(answer);
}

void ServiceDemands::ObserveStep(absl::Span<const StepEntry> plan, double seconds) {
  StepPace step;
  step.seconds = seconds;
  for (const StepEntry& entry : plan) {
    step.rows += entry.feed + entry.draft_length;
    if (entry.decoded()) {
      ++step.decoding;
      step.tokens += entry.kept;
    } else {
      step.prompt_rows += entry.feed;
    }
  }
  pace_.Observe(step);
}

void ServiceDemands::ObserveAnswer(const Answer& answer) {
  const ActiveRequest& active = *answer.request;
  if (active.scoring()) return;
  pace_.ObserveAnswer(answer.generated(), active.token_limit - answer.prompt_length,
                      !active.grows());
}

void ServiceDemands::ObserveRunning(absl::Span<const std::unique_ptr<ActiveRequest>> running) {
  int growing = 0;
  double generated = 0;
  for (const auto& active : running) {
    if (!active->grows() || active->unfinished == 0) continue;
    for (const auto& answer : active->answers) {
      if (answer->finished) continue;
      ++growing;
      generated += static_cast<double>(answer->generated());
    }
  }
  pace_.ObserveRunning(growing > 0 ? generated / growing : 0);
}

void ServiceDemands::Update(absl::Span<const std::unique_ptr<ActiveRequest>> running,
                            absl::Span<const std::unique_ptr<ActiveRequest>> waiting,
                            absl::Time now) {
  ObserveRunning(running);
  queue_.made = now;
  queue_.running.clear();
  queue_.waiting.clear();
  for (const auto& active : running) {
    if (active->unfinished > 0) queue_.running.push_back(DemandOf(*active));
  }
  for (const auto& active : waiting) queue_.waiting.push_back(DemandOf(*active));
}

ServiceDemands::Times ServiceDemands::Foresee(
    const Request& request, absl::Span<const std::unique_ptr<ActiveRequest>> before,
    absl::Time now) {
  forecast_.Begin(slots_, capacity_.pages_total(), queue_.running);
  for (const auto& active : before.subspan(0, kForeseen)) forecast_.Add(DemandOf(*active));
  const ServiceDemand demand = capacity_.DemandOf(request, pace_);
  const double since = absl::ToDoubleSeconds(now - queue_.made);
  return {std::max(0.0, forecast_.Add(demand) - since), demand.reading, demand.seconds};
}

// What a request takes still: its longest sample, and what of its prompt is not read.
ServiceDemand ServiceDemands::DemandOf(const ActiveRequest& active) const {
  ServiceDemand demand = capacity_.DemandOf(active.request, pace_);
  if (active.answers.empty()) return demand;
  const RequestSize size = capacity_.SizeOf(active.request);
  int64_t unread = 0, generated = size.limit;
  for (const auto& answer : active.answers) {
    if (answer->finished) continue;
    generated = std::min(generated, answer->generated());
    unread = std::max(unread, answer->sequence.backlog() - 1);
    if (!active.forked) break;  // the others wait for the first
  }
  const double tokens = size.limit > 0 ? pace_.TokensLeft(generated, size.limit, size.named) : 0;
  demand.reading = static_cast<double>(unread) * pace_.SecondsAPromptToken();
  demand.seconds = tokens * pace_.SecondsAToken();
  demand.slots = active.unfinished;
  const double all =
      size.named ? static_cast<double>(size.limit) : static_cast<double>(generated) + tokens;
  demand.pages = capacity_.PagesFor(active.unfinished, size.prompt + static_cast<int64_t>(all),
                                    active.shares_prompt ? size.prompt - 1 : 0);
  return demand;
}

void ServiceDemands::Doubt() {
  pace_.Doubt();
  queue_ = QueueDemands();
}

}  // namespace mambad
