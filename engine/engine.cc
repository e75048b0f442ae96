#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/answer_writer.h"
#include "engine/capacity.h"
#include "engine/delivery.h"
#include "engine/engine_core.h"
#include "engine/intake.h"
#include "engine/mutex.h"
#include "engine/opening/opening.h"
#include "engine/self_check.h"
#include "engine/steady_time.h"

namespace mambad {
namespace {

// Threads that tell readers their news: more where there are many cores for them.
int DeliveryThreads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 8, 1, 4);
}

class ThreadedEngine : public Engine {
 public:
  ThreadedEngine(std::unique_ptr<EngineCore> core, absl::Status self_check)
      : core_(std::move(core)),
        self_check_(std::move(self_check)),
        stats_(core_->stats()),
        intake_(core_->capacity(), core_->facts().options, core_->stats(), core_->demands()),
        delivery_(DeliveryThreads(),
                  {[this](RequestId id) { Pause(id); }, [this] { WakeDrain(); }}),
        thread_([this] { Run(); }) {
    core_->sessions()->SetWake([this] {
      MutexLock lock(&mutex_);
      session_news_ = true;
      news_.NotifyOne();
    });
  }

  ~ThreadedEngine() override {
    DieOnEngineThread("Engine's destructor");
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
    }
    news_.NotifyOne();
    thread_.join();
    core_->sessions()->SetWake(nullptr);
  }

  absl::StatusOr<RequestId> Submit(Request request, std::shared_ptr<EventSink> sink) override {
    if (absl::Status status = core_->capacity().Validate(request); !status.ok()) return status;
    if (request.output.echo && core_->facts().tokenizer != nullptr) {
      // Of a session, what this call adds.
      const size_t before = request.session == nullptr ? 0 : request.session->tokens().size();
      request.echo_text = core_->facts().tokenizer->Decode(
          absl::MakeConstSpan(request.prompt).subspan(before), /*skip_special=*/true);
    }
    MutexLock lock(&mutex_);
    if (draining_ || stopping_)
      return absl::UnavailableError("draining: no new requests are taken");
    // Asked here and not only in the core, so that a burst is refused at once and not after it has
    // been queued.
    if (absl::Status status = intake_.Ask(request, SteadyNow()); !status.ok()) return status;
    const RequestId id = ++last_id_;
    const absl::Time arrival = request.arrival.value_or(SteadyNow());
    submitted_.push_back({id, std::move(request), std::move(sink), arrival});
    news_.NotifyOne();
    return id;
  }

  void Cancel(RequestId id) override {
    MutexLock lock(&mutex_);
    cancelled_.push_back(id);
    news_.NotifyOne();
  }

  void Resume(RequestId id) override {
    MutexLock lock(&mutex_);
    resumed_.push_back(id);
    news_.NotifyOne();
  }

  void Drain(absl::Time deadline) override {
    DieOnEngineThread("Engine::Drain");
    MutexLock lock(&mutex_);
    draining_ = true;
    while (!Empty()) {
      if (emptied_.WaitUntil(&mutex_, deadline)) continue;
      cancel_all_ = true;
      news_.NotifyOne();
      deadline = absl::InfiniteFuture();
    }
  }

  EngineStats Stats() const override {
    MutexLock lock(&mutex_);
    const absl::Time now = SteadyNow();
    EngineStats stats = stats_;
    stats.waiting = intake_.waiting();
    stats.generation_tokens_per_second = rates_.TokensPerSecond(now);
    stats.acceptance_rate = rates_.AcceptanceRate(now);
    return stats;
  }

  absl::Duration CurrentStep() const override {
    MutexLock lock(&mutex_);
    return std::max(absl::ZeroDuration(), SteadyNow() - step_began_);
  }

  absl::Duration EstimatedWait() const override {
    MutexLock lock(&mutex_);
    return intake_.EstimatedWait(SteadyNow());
  }

  Sessions* sessions() const override { return core_->sessions().get(); }

  absl::Status self_check() const override { return self_check_; }
  const ModelInfo& model() const override { return core_->facts().model; }
  const ModelInfo* draft_model() const override {
    const auto& draft = core_->facts().draft_model;
    return draft.has_value() ? &*draft : nullptr;
  }
  const EngineOptions& options() const override { return core_->facts().options; }
  const std::string& device() const override { return core_->facts().device; }
  MemoryUse DeviceMemory() const override { return core_->Memory(); }
  const MemoryPlan& memory() const override { return core_->facts().memory; }
  const std::vector<std::string>& warnings() const override { return core_->facts().warnings; }
  const SamplingParams& default_sampling() const override {
    return core_->facts().default_sampling;
  }
  const text::Tokenizer* tokenizer() const override { return core_->facts().tokenizer.get(); }
  const text::ChatTemplate* chat_template() const override {
    const auto& chat_template = core_->facts().chat_template;
    return chat_template.has_value() ? &*chat_template : nullptr;
  }
  text::ChatTemplate::Variables chat_variables() const override {
    return core_->facts().chat_variables;
  }

 private:
  struct Submission {
    RequestId id;
    Request request;
    std::shared_ptr<EventSink> sink;
    absl::Time when;
  };

  // A sink or observer that waits for the engine's threads waits for itself.
  void DieOnEngineThread(const char* what) const {
    if (std::this_thread::get_id() != thread_.get_id() && !delivery_.OnOwnThread()) return;
    std::fprintf(stderr, "mambad engine: %s was called by a sink or observer\n", what);
    std::abort();
  }

  bool Empty() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return submitted_.empty() && core_idle_ && delivery_.idle();
  }
  bool HasNews() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || cancel_all_ || !submitted_.empty() || !cancelled_.empty() ||
           !resumed_.empty() || session_news_;
  }

  // A reader has fallen behind; it may have caught up, and said so, before this is known.
  void Pause(RequestId id) {
    MutexLock lock(&mutex_);
    paused_.push_back(id);
  }

  void WakeDrain() {
    if (!draining_) return;
    MutexLock lock(&mutex_);
    if (Empty()) emptied_.NotifyAll();
  }

  // The engine thread: takes the news, steps, publishes; sleeps when nothing can run.
  void Run() {
    bool ran = false;
    std::vector<Submission> submitted;
    std::vector<RequestId> cancelled, paused, resumed;
    for (;;) {
      bool stop = false, cancel_all = false;
      {
        MutexLock lock(&mutex_);
        Publish();
        step_began_ = absl::InfiniteFuture();
        while (!ran && !HasNews() && news_.WaitUntil(&mutex_, core_->NextDeadline())) {
        }
        step_began_ = SteadyNow();
        submitted.swap(submitted_);
        cancelled.swap(cancelled_);
        paused.swap(paused_);
        resumed.swap(resumed_);
        session_news_ = false;
        intake_.HandOver();
        if (!submitted.empty()) core_idle_ = false;
        stop = stopping_;
        cancel_all = cancel_all_ || stop;
        cancel_all_ = false;  // nothing new comes in after it was asked for
      }
      for (Submission& submission : submitted) {
        RefuseOrAdmit(submission);
      }
      for (RequestId id : cancelled) core_->Cancel(id);
      for (RequestId id : paused) core_->Pause(id);
      for (RequestId id : resumed) core_->Resume(id);
      submitted.clear();
      cancelled.clear();
      paused.clear();
      resumed.clear();
      if (cancel_all) core_->CancelAll();
      ran = core_->Step(SteadyNow);
      delivery_.HandOver();
      if (stop && core_->idle()) {
        MutexLock lock(&mutex_);
        Publish();
        return;
      }
    }
  }

  void RefuseOrAdmit(Submission& submission) {
    const int samples = submission.request.output.samples;
    const auto prompt = static_cast<int64_t>(submission.request.prompt.size());
    const std::shared_ptr<EventSink> sink =
        delivery_.SinkFor(submission.id, std::move(submission.sink));
    const absl::Status status =
        core_->Admit(submission.id, std::move(submission.request), sink, submission.when);
    if (status.ok()) return;
    for (int sample = 0; sample < samples; ++sample) {
      TokenEvent event;
      event.request = submission.id;
      event.index = sample;
      event.finish = FinishReason::kError;
      event.error = status;
      event.stats = StatsOfUnstarted(prompt, SteadyNow() - submission.when);
      sink->OnEvent(event);
    }
  }

  void Publish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    stats_ = core_->stats();
    rates_ = core_->rates();
    intake_.Publish(core_->stats(), core_->demands());
    core_idle_ = core_->idle();
    if (Empty()) emptied_.NotifyAll();
  }

  // The engine thread's, but for facts, capacity and the device's memory.
  const std::unique_ptr<EngineCore> core_;
  const absl::Status self_check_;

  mutable Mutex mutex_;
  Condition news_;                     // for the engine thread: HasNews()
  Condition emptied_;                  // for Drain: Empty()
  std::atomic<bool> draining_{false};  // set with mutex_ held
  std::vector<Submission> submitted_ ABSL_GUARDED_BY(mutex_);
  std::vector<RequestId> cancelled_ ABSL_GUARDED_BY(mutex_), paused_ ABSL_GUARDED_BY(mutex_),
      resumed_ ABSL_GUARDED_BY(mutex_);
  RequestId last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancel_all_ ABSL_GUARDED_BY(mutex_) = false;
  bool core_idle_ ABSL_GUARDED_BY(mutex_) = true;
  bool session_news_ ABSL_GUARDED_BY(mutex_) = false;
  // When the engine thread last had something to do; in the future: it waits.
  absl::Time step_began_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  RecentRates rates_ ABSL_GUARDED_BY(mutex_);
  Intake intake_ ABSL_GUARDED_BY(mutex_);

  Delivery delivery_;   // its threads use what stands above
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Open(const EngineOptions& options,
                                                     StepObserver* observer,
                                                     DeviceLostHandler lost) {
  absl::StatusOr<std::unique_ptr<EngineCore>> core =
      EngineCore::Open(options, observer, /*backend=*/nullptr, std::move(lost));
  if (!core.ok()) return core.status();
  absl::Status self_check;
  if ((*core)->facts().options.speculation) self_check = SelfCheck(**core);
  if (!self_check.ok()) {
    (*core)->CountSelfCheckFailure();
    (*core)->set_speculation_enabled(false);
  }
  return std::make_unique<ThreadedEngine>(*std::move(core), std::move(self_check));
}

absl::StatusOr<std::vector<std::string>> Engine::Check(const EngineOptions& options) {
  return CheckParts(options);
}

}  // namespace mambad
