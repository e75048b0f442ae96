// EngineCore's books: what a step did, whose time it was, what people and routers read of it.

#include <algorithm>

#include "engine/engine_core.h"

namespace mambad {
namespace {

int64_t Microseconds(double seconds) { return static_cast<int64_t>(1e6 * seconds); }

}  // namespace

// A token that was kept last, alone or with drafts; all other rows read prompts, or again what a
// preempted request had said.
bool EngineCore::Decodes(const StepEntry& entry) {
  return entry.feed == 1 && entry.position >= entry.sequence->prompt_length;
}

void EngineCore::Account(const StepTimes& times, absl::Time begin, absl::Time now) {
  StepReport report;
  int64_t generated = 0, decoded = 0, drafted = 0, accepted = 0;
  int decoding = 0;
  for (const StepEntry& entry : plan_) {
    report.sequences += 1;
    report.rows += entry.feed + entry.draft_length;
    report.draft_length = std::max(report.draft_length, entry.draft_length);
    if (Decodes(entry)) {
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
  report.total_seconds = times.draft_seconds + times.verify_seconds;
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
  pace_.Observe(absl::ToDoubleSeconds(now - begin), decoding, decoded, report.prefill_rows,
                report.rows);
  ObserveDrafts(times);
  if (observer_ != nullptr) observer_->OnStep(report);
}

// Rows of the prompt count once a request, whichever sample reads them and however often.
void EngineCore::CountPromptRows(const StepEntry& entry) {
  const Sequence& sequence = *entry.sequence;
  int64_t& counted = sequence.request->prompt_rows_counted;
  const int64_t read = std::min(entry.position + entry.feed, sequence.prompt_length);
  if (read <= counted) return;
  stats_.prompt_tokens += read - counted;
  counted = read;
}

void EngineCore::ShareTime(const StepEntry& entry, const StepTimes& times, int rows) {
  SpeculationReport& report = entry.sequence->stats.speculation;
  report.verify_microseconds +=
      Microseconds(times.verify_seconds * (entry.feed + entry.draft_length) / rows);
  if (entry.draft_rows == 0) return;
  report.draft_microseconds +=
      Microseconds(times.draft_seconds * entry.draft_rows / times.draft_rows);
}

// What a request takes still: its longest sample, and what of its prompt is not read.
ServiceDemand EngineCore::DemandOf(const ActiveRequest& active) const {
  const Request& request = active.request;
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t limit = TokenLimit(request) - prompt;
  int64_t unread = prompt, generated = 0;
  int slots = active.samples();
  if (!active.sequences.empty()) {
    slots = active.unfinished;
    generated = limit;
    unread = 0;
    for (const auto& sequence : active.sequences) {
      if (sequence->finished) continue;
      generated = std::min(generated, sequence->generated());
      unread = std::max(unread, sequence->backlog() - 1);
      if (!active.forked) break;  // the others wait for the first
    }
  }
  const double tokens =
      active.scoring() ? 0 : pace_.TokensLeft(generated, limit, !active.grows());
  ServiceDemand demand;
  demand.seconds = static_cast<double>(unread) * pace_.SecondsAPromptToken() +
                   tokens * pace_.SecondsAToken();
  demand.slots = slots;
  return demand;
}

// Now and then: readers know how old it is.
void EngineCore::UpdateForecast(absl::Time now) {
  constexpr absl::Duration kOften = absl::Milliseconds(50);
  constexpr int kBehind = 64;
  const bool waits = !waiting_.empty() || free_slots_.empty();
  if (!waits && forecast_.starts.empty()) return;
  const bool news = waits == forecast_.starts.empty();
  if (!news && now >= forecast_.made && now - forecast_.made < kOften) return;
  forecast_.made = now;
  forecast_.starts.clear();
  forecast_.waiting = 0;
  if (!waits) return;
  running_demands_.clear();
  waiting_demands_.clear();
  for (const auto& active : active_) {
    if (active->unfinished > 0) running_demands_.push_back(DemandOf(*active));
  }
  for (const auto& active : waiting_) waiting_demands_.push_back(DemandOf(*active));
  ForecastWaits(running_demands_, waiting_demands_, facts_.options.max_sequences, kBehind,
                &forecast_);
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
  stats_.generation_tokens_per_second = rates_.TokensPerSecond(now);
  stats_.acceptance_rate = rates_.AcceptanceRate(now);
}

void EngineCore::ForgetHistory() {
  EngineStats fresh;
  fresh.speculation_enabled = stats_.speculation_enabled;
  fresh.self_check_failures = stats_.self_check_failures;
  fresh.accepted_per_position.reserve(kMaxDraftLength);
  stats_ = std::move(fresh);
  draft_lengths_ = DraftLengthController();
  rates_ = RecentRates();
  pace_ = ServicePace();
  last_step_.reset();
  forecast_ = WaitForecast();
  ended_requests_ = 0;
  UpdateGauges(absl::UnixEpoch());
}

}  // namespace mambad
