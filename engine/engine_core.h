// The single-threaded core of the engine: Admit, Step, Cancel. Deterministic but for the clock it
// is handed and the measured times that choose draft lengths, neither of which can change a token.
// Driven by Engine's thread in the daemon and directly in tests.

#ifndef MAMBAD_ENGINE_ENGINE_CORE_H_
#define MAMBAD_ENGINE_ENGINE_CORE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/active_request.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/draft_length.h"
#include "engine/engine.h"
#include "engine/model/model.h"
#include "engine/options.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/speculative_decoder.h"
#include "engine/state_pool.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "kernels/backend.h"

namespace mambad {

// What Open found out; immutable afterwards, readable from any thread.
struct EngineFacts {
  EngineOptions options;  // resolved: no zeros that mean "choose"
  ModelInfo model;
  std::optional<ModelInfo> draft_model;
  SamplingParams default_sampling;
  std::unique_ptr<const text::Tokenizer> tokenizer;  // null: none
  std::optional<text::ChatTemplate> chat_template;
  text::ChatTemplate::Variables chat_variables;
};

class EngineCore {
 public:
  static absl::StatusOr<std::unique_ptr<EngineCore>> Open(const EngineOptions& options,
                                                          StepObserver* observer);
  ~EngineCore();

  const EngineFacts& facts() const { return facts_; }

  // Any thread: reads facts only. INVALID_ARGUMENT: "field: value given, allowed range".
  absl::Status Validate(const Request& request) const;

  // Queues a validated request. RESOURCE_EXHAUSTED when a queue limit is reached.
  absl::Status Admit(RequestId id, Request request, std::shared_ptr<EventSink> sink,
                     absl::Time now);
  void Cancel(RequestId id);
  void Resume(RequestId id);
  void CancelAll();

  // Ends what is cancelled or too late, admits what fits, runs one step. False: nothing could run
  // (idle, or all paused).
  bool Step(absl::Time now);

  bool idle() const { return waiting_.empty() && active_.empty(); }
  // When the next deadline of a waiting or running request passes.
  absl::Time NextDeadline() const;

  const EngineStats& stats() const { return stats_; }
  int64_t finished_requests() const { return finished_requests_; }
  void set_speculation_enabled(bool enabled);
  void CountSelfCheckFailure() { ++stats_.self_check_failures; }

 private:
  EngineCore() = default;

  // Start-up, in order.
  absl::Status OpenModels();
  absl::Status OpenText(const checkpoint::Checkpoint& checkpoint);
  absl::Status ResolveOptions(const checkpoint::Checkpoint& target,
                              const checkpoint::Checkpoint* draft);

  // The phases of a step.
  void EndLateAndCancelled(absl::Time now);
  void AdmitWaiting(absl::Time now);
  void ForkSamples();
  void ChooseDrafts();
  void ProposeLookups();
  void Deliver(StepEntry& entry, absl::Time now);
  void Account(const StepTimes& times, absl::Time now);
  void ObserveDrafts(const StepTimes& times);

  bool Start(ActiveRequest& active, absl::Time now);
  void StartSequence(ActiveRequest& active, Sequence& sequence, int slot);
  void CollectPromptLogprobs(const StepEntry& entry);
  int64_t ReadText(Sequence& sequence, const StepEntry& entry, std::string* matched);
  void Finish(Sequence& sequence, FinishReason reason, absl::Time now);
  void Emit(ActiveRequest& active);
  void ReleaseSequence(Sequence& sequence);
  void RemoveFinished();
  void EndWaiting(ActiveRequest& active, FinishReason reason, absl::Time now);
  void UpdateGauges(absl::Time now);

  EngineFacts facts_;
  StepObserver* observer_ = nullptr;

  std::unique_ptr<kernels::Backend> backend_;  // outlives everything below
  std::unique_ptr<Model> target_, draft_;
  std::unique_ptr<StatePool> target_state_, draft_state_;
  std::unique_ptr<Sampler> sampler_;
  std::unique_ptr<SpeculativeDecoder> decoder_;
  std::unique_ptr<Scheduler> scheduler_;
  DraftLengthController draft_lengths_;
  bool speculation_enabled_ = true;

  std::deque<std::unique_ptr<ActiveRequest>> waiting_;  // by priority, then arrival
  std::vector<std::unique_ptr<ActiveRequest>> active_;  // by priority, then arrival
  absl::flat_hash_map<RequestId, ActiveRequest*> by_id_;
  std::vector<int> free_slots_;

  // Reused every step.
  std::vector<Sequence*> running_;
  std::vector<int> wished_drafts_;
  std::vector<DraftChoice> choices_;  // of the decoding sequences
  std::vector<size_t> chosen_;        // [choices_]: which of running_
  std::vector<StepEntry> plan_;
  std::vector<TokenId> lookup_;
  TokenEvent event_;

  EngineStats stats_;
  int64_t finished_requests_ = 0;
  struct RateWindow {  // for the gauges that people read
    absl::Time begun = absl::InfinitePast();
    int64_t tokens = 0, drafted = 0, accepted = 0;
  } rate_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_ENGINE_CORE_H_
