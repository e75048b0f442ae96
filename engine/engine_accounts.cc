// EngineCore's books: what a step did, whose time it was, what people and routers read of it.

#include <algorithm>

#include "engine/engine_core.h"

namespace mambad {
namespace {

int64_t Microseconds(double seconds) { return static_cast<int64_t>(1e6 * seconds); }

}  // namespace

void EngineCore::Account(const StepTimes& times, absl::Time begin, absl::Time now) {
  StepReport report;
  int64_t generated = 0, decoded = 0, drafted = 0, accepted = 0;
  int decoding = 0;
  for (const StepEntry& entry : plan_) {
    report.sequences += 1;
    report.rows += entry.feed + entry.draft_length;
    report.draft_length = std::max(report.draft_length, entry.draft_length);
    if (entry.decoded()) {
      ++decoding;
      decoded += entry.kept;
    } else {
      report.prefill_rows += entry.feed;
    }
    CountPromptRows(entry);
    generated += entry.sampled ? entry.kept : 0;
    if (entry.draft_length == 0) continue;
    ++stats_.draft_rounds;
    drafted += entry.draft_length;
    accepted += entry.accepted;
    std::vector<int64_t>& positions = stats_.accepted_per_position;
    if (static_cast<int>(positions.size()) < entry.accepted) positions.resize(entry.accepted);
    for (int i = 0; i < entry.accepted; ++i) ++positions[i];
  }
  for (const StepEntry& entry : plan_) ShareTime(entry, times, report.rows);
  report.draft_seconds = times.draft_seconds;
  report.verify_seconds = times.verify_seconds;
  report.total_seconds = times.total_seconds;
  // Both from their rows: as what is left over, rounding could make it less than nothing.
  const double second_a_row = times.verify_seconds / report.rows;
  stats_.draft_tokens += drafted;
  stats_.accepted_tokens += accepted;
  stats_.draft_seconds += times.draft_seconds;
  stats_.prefill_seconds += second_a_row * report.prefill_rows;
  stats_.verify_seconds += second_a_row * (report.rows - report.prefill_rows);
  ++stats_.steps;
  stats_.step_rows += report.rows;
  stats_.step_sequences += report.sequences;
  stats_.step_seconds += report.total_seconds;
  rates_.Add(now, generated, drafted, accepted);
  StepPace pace;
  pace.seconds = absl::ToDoubleSeconds(now - begin);
  pace.decoding = decoding;
  pace.tokens = decoded;
  pace.prompt_rows = report.prefill_rows;
  pace.rows = report.rows;
  pace_.Observe(pace);
  drafting_.Observe(plan_, times);
  if (observer_ != nullptr) observer_->OnStep(report);
}

// Rows of the prompt count once a request, whichever sample reads them and however often.
void EngineCore::CountPromptRows(const StepEntry& entry) {
  const Answer& answer = *entry.answer;
  int64_t& counted = answer.request->prompt_rows_counted;
  const int64_t read = std::min(entry.position + entry.feed, answer.prompt_length);
  if (read <= counted) return;
  stats_.prompt_tokens += read - counted;
  counted = read;
}

void EngineCore::ShareTime(const StepEntry& entry, const StepTimes& times, int rows) {
  SpeculationReport& report = entry.answer->stats.speculation;
  report.verify_microseconds +=
      Microseconds(times.verify_seconds * (entry.feed + entry.draft_length) / rows);
  if (entry.draft_rows == 0) return;
  report.draft_microseconds +=
      Microseconds(times.draft_seconds * entry.draft_rows / times.draft_rows);
}

// What a request takes still: its longest sample, and what of its prompt is not read.
ServiceDemand EngineCore::DemandOf(const ActiveRequest& active) const {
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

void EngineCore::UpdateDemands(absl::Time now) {
  int growing = 0;
  double generated = 0;
  for (const auto& active : active_) {
    if (!active->grows() || active->unfinished == 0) continue;
    for (const auto& answer : active->answers) {
      if (answer->finished) continue;
      ++growing;
      generated += static_cast<double>(answer->generated());
    }
  }
  pace_.ObserveRunning(growing > 0 ? generated / growing : 0);
  demands_.made = now;
  demands_.running.clear();
  demands_.waiting.clear();
  for (const auto& active : active_) {
    if (active->unfinished > 0) demands_.running.push_back(DemandOf(*active));
  }
  for (const auto& active : waiting_.in_order()) demands_.waiting.push_back(DemandOf(*active));
}

void EngineCore::UpdateGauges(absl::Time now) {
  int running = 0;
  for (const auto& active : active_) running += active->unfinished > 0;
  stats_.running = running;
  stats_.waiting = static_cast<int>(waiting_.size());
  stats_.waiting_tokens = waiting_.prompt_tokens();
  stats_.slots_total = slots_.total();
  stats_.slots_used = slots_.total() - slots_.free();
  stats_.pages_total = parts_.target_state->pages_total();
  stats_.pages_used = stats_.pages_total - parts_.target_state->pages_free();
  stats_.state_bytes = stats_.slots_used * parts_.target_state->recurrent_bytes_per_slot() +
                       stats_.pages_used * parts_.target_state->bytes_per_page();
  stats_.generation_tokens_per_second = rates_.TokensPerSecond(now);
  stats_.acceptance_rate = rates_.AcceptanceRate(now);
}

void EngineCore::ForgetHistory() {
  EngineStats fresh;
  fresh.speculation_enabled = stats_.speculation_enabled;
  fresh.self_check_failures = stats_.self_check_failures;
  fresh.accepted_per_position.reserve(kMaxDraftLength);
  stats_ = std::move(fresh);
  drafting_.Forget();
  rates_ = RecentRates();
  pace_.Doubt();
  last_step_.reset();
  demands_ = QueueDemands();
  ended_requests_ = 0;
  UpdateGauges(absl::UnixEpoch());
}

}  // namespace mambad
