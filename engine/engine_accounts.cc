#include "engine/engine_accounts.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace mambad {
namespace {

int64_t Microseconds(double seconds) { return static_cast<int64_t>(1e6 * seconds); }

// An answer's share of a step of so many rows.
void ShareTime(const StepEntry& entry, const StepTimes& times, int rows) {
  SpeculationReport& report = entry.answer->stats.speculation;
  report.verify_microseconds +=
      Microseconds(times.verify_seconds * (entry.feed + entry.draft_length) / rows);
  if (entry.draft_rows == 0) return;
  report.draft_microseconds +=
      Microseconds(times.draft_seconds * entry.draft_rows / times.draft_rows);
}

}  // namespace

EngineAccounts::EngineAccounts(const SlotTable& slots, const StatePool& target)
    : slots_(slots), target_(target) {
  stats_.accepted_per_position.reserve(kMaxDraftLength);
}

StepReport EngineAccounts::CountStep(absl::Span<const StepEntry> plan, const StepTimes& times,
                                     absl::Time now) {
  StepReport report;
  int64_t generated = 0, drafted = 0, accepted = 0;
  for (const StepEntry& entry : plan) {
    report.sequences += 1;
    report.rows += entry.feed + entry.draft_length;
    report.draft_length = std::max(report.draft_length, entry.draft_length);
    if (!entry.decoded()) report.prefill_rows += entry.feed;
    CountPromptRows(entry);
    generated += entry.sampled ? entry.kept : 0;
    if (entry.draft_length == 0) continue;
    CountDrafts(entry);
    drafted += entry.draft_length;
    accepted += entry.accepted;
  }
  for (const StepEntry& entry : plan) ShareTime(entry, times, report.rows);
  report.draft_seconds = times.draft_seconds;
  report.verify_seconds = times.verify_seconds;
  report.total_seconds = times.total_seconds;
  // Both from their rows: as what is left over, rounding could make it less than nothing.
  const double second_a_row = times.verify_seconds / report.rows;
  stats_.draft_seconds += times.draft_seconds;
  stats_.prefill_seconds += second_a_row * report.prefill_rows;
  stats_.verify_seconds += second_a_row * (report.rows - report.prefill_rows);
  ++stats_.steps;
  stats_.step_rows += report.rows;
  stats_.step_sequences += report.sequences;
  stats_.step_seconds += report.total_seconds;
  rates_.Add(now, generated, drafted, accepted);
  return report;
}

// Rows of the prompt count once a request, whichever sample reads them and however often.
void EngineAccounts::CountPromptRows(const StepEntry& entry) {
  const Answer& answer = *entry.answer;
  int64_t& counted = answer.request->prompt_rows_counted;
  const int64_t read = std::min(entry.position + entry.feed, answer.prompt_length);
  if (read <= counted) return;
  stats_.prompt_tokens += read - counted;
  counted = read;
}

void EngineAccounts::CountDrafts(const StepEntry& entry) {
  ++stats_.draft_rounds;
  stats_.draft_tokens += entry.draft_length;
  stats_.accepted_tokens += entry.accepted;
  std::vector<int64_t>& positions = stats_.accepted_per_position;
  if (static_cast<int>(positions.size()) < entry.accepted) positions.resize(entry.accepted);
  for (int i = 0; i < entry.accepted; ++i) ++positions[i];
}

void EngineAccounts::SetWaiting(const RequestQueue& waiting) {
  stats_.waiting = static_cast<int>(waiting.size());
  stats_.waiting_tokens = waiting.prompt_tokens();
}

void EngineAccounts::SetGauges(absl::Span<const std::unique_ptr<ActiveRequest>> active,
                               const RequestQueue& waiting, const kernels::RecordedRounds& recorded,
                               int resting, absl::Time now) {
  int running = 0;
  for (const auto& request : active) running += request->unfinished > 0;
  stats_.running = running;
  SetWaiting(waiting);
  stats_.slots_total = slots_.total();
  stats_.slots_used = slots_.total() - slots_.free() - resting;
  stats_.pages_total = target_.pages_total();
  stats_.pages_used = stats_.pages_total - target_.pages_free();
  stats_.state_bytes = (stats_.slots_used + resting) * target_.recurrent_bytes_per_slot() +
                       stats_.pages_used * target_.bytes_per_page();
  stats_.recorded_rounds = recorded.kept;
  stats_.round_recordings = recorded.recordings;
  stats_.generation_tokens_per_second = rates_.TokensPerSecond(now);
  stats_.acceptance_rate = rates_.AcceptanceRate(now);
}

void EngineAccounts::Forget() {
  EngineStats fresh;
  fresh.speculation_enabled = stats_.speculation_enabled;
  fresh.self_check_failures = stats_.self_check_failures;
  fresh.accepted_per_position.reserve(kMaxDraftLength);
  stats_ = std::move(fresh);
  rates_ = RecentRates();
}

}  // namespace mambad
