// What an engine did and holds, as people and routers read it: counters, gauges, rates; of each
// step a report, and whose time it was. Engine thread; allocates nothing once warm.

#ifndef MAMBAD_ENGINE_ENGINE_ACCOUNTS_H_
#define MAMBAD_ENGINE_ENGINE_ACCOUNTS_H_

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/active_request.h"
#include "engine/engine_stats.h"
#include "engine/request_queue.h"
#include "engine/service_rates.h"
#include "engine/speculation/speculative_decoder.h"
#include "engine/speculation/step_plan.h"
#include "engine/state/slot_table.h"
#include "engine/state/state_pool.h"
#include "kernels/backend.h"

namespace mambad {

class EngineAccounts {
 public:
  // What gauges are read off; both outlive it. `target`: the target's state.
  EngineAccounts(const SlotTable& slots, const StatePool& target);

  // Counters as of the last count; gauges, and rates in them, as of the last SetGauges.
  const EngineStats& stats() const { return stats_; }
  const RecentRates& rates() const { return rates_; }

  // A round with results: counts it, and gives every answer its share of the time.
  StepReport CountStep(absl::Span<const StepEntry> plan, const StepTimes& times, absl::Time now);
  void CountTokens(int64_t kept) { stats_.generation_tokens += kept; }  // that readers are told of
  void CountPreemption() { ++stats_.preemptions; }
  void CountSelfCheckFailure() { ++stats_.self_check_failures; }

  void set_speculation_enabled(bool enabled) { stats_.speculation_enabled = enabled; }
  void SetWaiting(const RequestQueue& waiting);
  // `resting`: slots of sessions that nobody uses, which are as good as free.
  void SetGauges(absl::Span<const std::unique_ptr<ActiveRequest>> active,
                 const RequestQueue& waiting, const kernels::RecordedRounds& recorded, int resting,
                 absl::Time now);
  void SetSessions(const SessionCounters& sessions) { stats_.sessions = sessions; }
  // Tokens of a prompt whose state was at hand.
  void CountCached(int64_t tokens) { stats_.cached_prompt_tokens += tokens; }

  // Counters and rates begin anew, self-check failures stay; gauges are to be set then.
  void Forget();

 private:
  void CountPromptRows(const StepEntry& entry);
  void CountDrafts(const StepEntry& entry);

  const SlotTable& slots_;
  const StatePool& target_;
  EngineStats stats_;
  RecentRates rates_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_ENGINE_ACCOUNTS_H_
