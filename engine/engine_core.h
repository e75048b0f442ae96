// The single-threaded core of the engine: Admit, Step, Cancel. Deterministic given the clock it is
// handed, but for the measured times that choose draft lengths; neither can change a token. Driven
// by Engine's thread in the daemon and directly in tests.
//
// Its own are the queue, who runs, and the order of a step. What a step does lies beside it, in
// classes that do not know the core: what a request may take (capacity.h) and holds
// (request_slots.h), who drafts (speculation/drafting.h), the round itself
// (speculation/speculative_decoder.h), what goes out (answer_writer.h), what is counted
// (engine_accounts.h) and foretold (service_demands.h).

#ifndef MAMBAD_ENGINE_ENGINE_CORE_H_
#define MAMBAD_ENGINE_ENGINE_CORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/active_request.h"
#include "engine/answer_writer.h"
#include "engine/capacity.h"
#include "engine/engine_accounts.h"
#include "engine/engine_facts.h"
#include "engine/engine_parts.h"
#include "engine/engine_stats.h"
#include "engine/options.h"
#include "engine/request.h"
#include "engine/request_queue.h"
#include "engine/request_slots.h"
#include "engine/scheduler.h"
#include "engine/service_demands.h"
#include "engine/sessions/prefix_cache.h"
#include "engine/sessions/session_keeper.h"
#include "engine/speculation/drafting.h"
#include "engine/speculation/speculative_decoder.h"
#include "kernels/backend.h"

namespace mambad {

class EngineCore {
 public:
  // A core of what OpenParts opens (engine/opening/opening.h), whose errors it has.
  static absl::StatusOr<std::unique_ptr<EngineCore>> Open(
      const EngineOptions& options, StepObserver* observer,
      std::unique_ptr<kernels::Backend> backend = nullptr, DeviceLostHandler lost = nullptr);
  EngineCore(EngineParts parts, StepObserver* observer);
  ~EngineCore();

  // Any thread.
  const std::shared_ptr<SessionTable>& sessions() const { return sessions_.table(); }

  // Any thread: these never change.
  const EngineFacts& facts() const { return facts_; }
  const Capacity& capacity() const { return capacity_; }
  absl::Status Validate(const Request& request) const { return capacity_.Validate(request); }

  // Queues a validated request. RESOURCE_EXHAUSTED when a queue limit is reached; with
  // RetryDelayOf(status) when it would wait for so long that its deadline could not be met.
  absl::Status Admit(RequestId id, Request request, std::shared_ptr<EventSink> sink,
                     absl::Time now);
  void Cancel(RequestId id);
  // Each Resume ends one pause, asked for here or by a sink; also one that will only be asked for.
  void Pause(RequestId id);
  void Resume(RequestId id);
  void CancelAll();

  // Ends what is cancelled or too late, admits what fits, runs one step and tells the sinks. Where
  // rounds run ahead (kernels/backend.h) it finishes the round that the last call launched,
  // launches the next one, and then tells the sinks about the first. False: nothing could run
  // (idle, or all paused). `clock` is read before and after a round.
  bool Step(absl::FunctionRef<absl::Time()> clock);

  bool idle() const { return waiting_.empty() && active_.empty() && sessions_.idle(); }
  // When the next deadline of a waiting or running request passes, or the next session goes.
  absl::Time NextDeadline() const;

  // As of the last step, gauges and rates in stats(), too.
  const EngineStats& stats() const { return accounts_.stats(); }
  MemoryUse Memory() const {  // any thread
    const kernels::DeviceMemory memory = backend_.Memory();
    return {memory.total, memory.free};
  }
  const RecentRates& rates() const { return accounts_.rates(); }
  const ServiceDemands& demands() const { return demands_; }

  void set_speculation_enabled(bool enabled);
  void CountSelfCheckFailure() { accounts_.CountSelfCheckFailure(); }
  // Returns the one before. Null: nobody looks.
  StepObserver* set_observer(StepObserver* observer) { return std::exchange(observer_, observer); }
  // Counters, rates and what was learned about drafts begin anew; self-check failures stay, and the
  // pace as a guess. Idle.
  void ForgetHistory();

 private:
  absl::Status CheckDeadline(const Request& request, absl::Time now);

  // The phases of a step.
  void EndLateAndCancelled(absl::Time now);
  void GrowPages();
  void AdmitWaiting(absl::Time now);
  void PlanRound();
  void LaunchRound(absl::Time now);
  // Waits for the round; when it was done.
  absl::Time FinishRound(absl::FunctionRef<absl::Time()> clock);
  void Tell();
  void SetGauges(absl::Time now);
  void SetBooks(absl::Time now);

  // Who runs.
  bool Start(ActiveRequest& active, absl::Time now);
  void GoOn(ActiveRequest& active, KeptSession& session,
            absl::Span<const RequestSlots::Need> needs);
  void UsePrefixes(ActiveRequest& active);
  void KeepPrefixes();
  void PrepareAnswers(ActiveRequest& active, absl::Time now);
  void Preempt(size_t index);

  // Ways out.
  void Finish(Answer& answer, FinishReason reason, absl::Time now);
  void FinishAll(ActiveRequest& active, FinishReason reason, absl::Time now);
  void EndWaiting(ActiveRequest& active, FinishReason reason, absl::Time now);
  void Close(Answer& answer, FinishReason reason);
  void RemoveFinished();

  EngineParts parts_;
  const EngineFacts& facts_;
  kernels::Backend& backend_;
  SpeculativeDecoder& decoder_;
  Scheduler scheduler_;
  const Capacity capacity_;
  RequestSlots slots_;
  SessionKeeper sessions_;
  PrefixCache prefixes_;
  Drafting drafting_;
  ServiceDemands demands_;
  EngineAccounts accounts_;
  AnswerWriter writer_;
  StepObserver* observer_;

  RequestQueue waiting_;
  std::vector<std::unique_ptr<ActiveRequest>> active_;  // in order of GoesBefore
  absl::flat_hash_map<RequestId, ActiveRequest*> by_id_;

  // Reused every step.
  std::vector<Answer*> running_;
  std::vector<StepEntry> plan_;

  std::optional<absl::Time> launched_;   // the round of plan_, when it is not finished
  std::optional<absl::Time> last_step_;  // its end, when nothing was idle since
  int64_t ended_requests_ = 0;           // that had started and gave everything back
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_ENGINE_CORE_H_
