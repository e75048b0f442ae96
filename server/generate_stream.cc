#include "server/generate_stream.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/network_thread.h"
#include "server/request_conversion.h"
#include "server/response_conversion.h"
#include "server/status_details.h"

namespace mambad::server {

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerateStream::Start(
    CallEnvironment* environment, grpc::CallbackServerContext* context,
    const v1::GenerateRequest* request) {
  std::shared_ptr<GenerateStream> stream(new GenerateStream(environment, context));
  {
    MutexLock lock(&stream->mutex_);
    stream->self_ = stream;
  }
  absl::StatusOr<Engine*> engine = environment->ReadyEngine();
  if (!engine.ok()) {
    stream->FailBeforeEngine(engine.status());
    GiveToNetwork(stream.get());
    return stream.get();
  }
  environment->text_worker.Run(
      [stream, request, engine = *engine] { stream->PrepareAndSubmit(engine, *request); });
  GiveToNetwork(stream.get());
  return stream.get();
}

GenerateStream::GenerateStream(CallEnvironment* environment, grpc::CallbackServerContext* context)
    : environment_(environment), context_(context), record_(environment, context, "Generate") {}

void GenerateStream::PrepareAndSubmit(Engine* engine, const v1::GenerateRequest& request) {
  absl::StatusOr<PreparedGenerate> prepared = PrepareGenerate(
      request, *engine, environment_->options.limits, DeadlineOf(*context_));
  if (!prepared.ok()) return FailBeforeEngine(prepared.status());
  {
    MutexLock lock(&mutex_);
    record_.SetRequestId(request.request_id());
    samples_.resize(static_cast<size_t>(prepared->request.output.samples));
    samples_left_ = samples_.size();
    stream_interval_ = prepared->stream_interval;
    seed_ = prepared->request.sampling.seed;
    tokenizer_ = engine->tokenizer();
  }
  absl::Status status = ticket_.Submit(engine, std::move(prepared->request), shared_from_this());
  if (!status.ok()) FailBeforeEngine(status);
}

void GenerateStream::FailBeforeEngine(const absl::Status& status) {
  Actions actions;
  {
    MutexLock lock(&mutex_);
    samples_left_ = 0;
    if (status_.ok()) status_ = status;
    actions = Next();
  }
  Perform(actions);
}

bool GenerateStream::OnEvent(const TokenEvent& event) {
  Actions actions;
  bool may_go_on = true;
  {
    MutexLock lock(&mutex_);
    record_.OnEvent(event);
    Sample& sample = samples_[static_cast<size_t>(event.index)];
    if (!broken_) {
      AppendEvent(event, seed_, tokenizer_, &sample.pending);
      sample.pending_tokens += static_cast<int>(event.tokens.size());
      sample.has_pending = true;
      pending_bytes_ += EventBytes(event);
    }
    if (event.finish != FinishReason::kNone) {
      sample.ended = true;
      --samples_left_;
      absl::Status status = FinishStatus(event.finish, event.error, environment_->draining.load());
      if (status_.ok()) status_ = std::move(status);
    }
    actions = Next();
    // Judged after Next: what is in flight is gRPC's and no longer pending.
    if (pending_bytes_ > environment_->options.max_pending_bytes && samples_left_ > 0 && writing_ &&
        !broken_) {
      may_go_on = false;
      if (!paused_) ArmStallTimer();
    }
  }
  Perform(actions);
  return may_go_on;
}

void GenerateStream::OnWriteDone(bool ok) {
  NetworkCallback callback(this);
  Actions actions;
  {
    MutexLock lock(&mutex_);
    writing_ = false;
    in_flight_.Clear();
    if (!ok) broken_ = true;
    actions = Next();
  }
  if (!ok) ticket_.Cancel();
  Perform(actions);
}

void GenerateStream::OnCancel() {
  NetworkCallback callback(this);
  Actions actions;
  {
    MutexLock lock(&mutex_);
    broken_ = true;
    if (status_.ok()) {
      const bool late = DeadlineOf(*context_) <= absl::Now();
      status_ = late ? absl::DeadlineExceededError("the deadline passed")
                     : absl::CancelledError("the caller is gone");
    }
    actions = Next();
  }
  ticket_.Cancel();
  Perform(actions);
}

void GenerateStream::OnDone() {
  TakeFromNetwork(this);
  std::shared_ptr<GenerateStream>
      last_share;  // destroys *this at the end, when the engine holds no share
  MutexLock lock(&mutex_);
  stall_timer_.reset();
  last_share = std::move(self_);
}

// What a timer's thread runs and destroys.
class GenerateStream::TimerCallback {
 public:
  TimerCallback(std::weak_ptr<GenerateStream> stream, int pause)
      : stream_(std::move(stream)), pause_(pause) {}
  TimerCallback(const TimerCallback&) = default;
  ~TimerCallback() { TakeFromNetwork(&handed_over_); }

  void operator()(bool expired) const {
    TakeFromNetwork(&handed_over_);
    if (!expired) return;
    if (const auto stream = stream_.lock()) stream->OnStall(pause_);
  }
  static void GiveToTimers() { GiveToNetwork(&handed_over_); }

 private:
  static inline char handed_over_ = 0;  // its address stands for all timers
  std::weak_ptr<GenerateStream> stream_;
  int pause_;
};

// A function of its own, of which ThreadSanitizer is told that another thread takes what it made.
void GenerateStream::SetTimer(grpc::Alarm* timer, absl::Time when, TimerCallback callback) {
  TimerCallback::GiveToTimers();
  timer->Set(absl::ToChronoTime(when), std::move(callback));
}

void GenerateStream::ArmStallTimer() {
  paused_ = true;
  const int pause = ++pauses_;
  stall_timer_ = std::make_unique<grpc::Alarm>();
  SetTimer(stall_timer_.get(), absl::Now() + environment_->options.stall_timeout,
           TimerCallback(weak_from_this(), pause));
}

void GenerateStream::OnStall(int pause) {
  {
    MutexLock lock(&mutex_);
    if (!paused_ || pauses_ != pause || finished_) return;
    broken_ = true;
    cancelling_ = true;
    status_ = absl::CancelledError(absl::StrCat(
        "the reader did not read for ", absl::FormatDuration(environment_->options.stall_timeout)));
  }
  ticket_.Cancel();
  context_->TryCancel();  // frees the write that is stuck in flow control
  Actions actions;
  {
    MutexLock lock(&mutex_);
    cancelling_ = false;
    actions = Next();
  }
  Perform(actions);
}

bool GenerateStream::TakeReadyMessage() {
  for (size_t i = 0; i < samples_.size(); ++i) {
    const size_t index = (next_sample_ + i) % samples_.size();
    Sample& sample = samples_[index];
    if (!sample.has_pending) continue;
    if (sample.begun && !sample.ended && sample.pending_tokens < stream_interval_ &&
        pending_bytes_ <= environment_->options.max_pending_bytes) {
      continue;
    }
    in_flight_.Swap(&sample.pending);
    sample.pending.Clear();
    sample.pending_tokens = 0;
    sample.has_pending = false;
    sample.begun = true;
    next_sample_ = index + 1;
    return true;
  }
  return false;
}

GenerateStream::Actions GenerateStream::Next() {
  Actions actions;
  if (finished_ || writing_) return actions;
  if (!broken_ && TakeReadyMessage()) {
    writing_ = true;
    actions.write = true;
    pending_bytes_ = 0;
    for (const Sample& sample : samples_) {
      if (sample.has_pending) pending_bytes_ += static_cast<int64_t>(sample.pending.ByteSizeLong());
    }
    record_.OnMessage(in_flight_.index());
  }
  if (paused_ && (broken_ || pending_bytes_ <= environment_->options.max_pending_bytes / 2)) {
    paused_ = false;
    stall_timer_.reset();
    actions.resume = true;
  }
  if (!actions.write && samples_left_ == 0 && !cancelling_) {
    finished_ = true;
    actions.finish = true;
    actions.status = status_;
    record_.End(status_, ticket_.id());
  }
  return actions;
}

void GenerateStream::Perform(const Actions& actions) {
  if (actions.resume) ticket_.Resume();
  if (actions.write) StartWrite(&in_flight_);
  if (actions.finish) Finish(ToGrpcStatus(actions.status, context_));
}

}  // namespace mambad::server
