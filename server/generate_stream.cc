#include "server/generate_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/network_thread.h"
#include "server/request_conversion.h"
#include "server/response_conversion.h"
#include "server/session_turns.h"
#include "server/status_details.h"
#include "server/wire_bytes.h"

namespace mambad::server {
namespace {

constexpr size_t kUsualMessage = 4096;  // bytes

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateStream::Start(
    CallEnvironment* environment, grpc::CallbackServerContext* context,
    const grpc::ByteBuffer* request, std::unique_ptr<GenerateDialect> dialect) {
  std::shared_ptr<GenerateStream> stream(
      new GenerateStream(environment, context, std::move(dialect)));
  {
    MutexLock lock(&stream->mutex_);
    stream->self_ = stream;
  }
  grpc::ByteBuffer bytes = TakeBytes(request);
  const auto size = static_cast<int64_t>(bytes.Length());
  environment->text_worker.NoteRequest(size);
  absl::Status status = stream->Admit();
  if (status.ok()) status = stream->Begin(&bytes, size);
  if (!status.ok()) stream->FailBeforeEngine(status);
  GiveToNetwork(stream.get());
  return stream.get();
}

GenerateStream::GenerateStream(CallEnvironment* environment, grpc::CallbackServerContext* context,
                               std::unique_ptr<GenerateDialect> dialect)
    : environment_(environment),
      context_(context),
      deadline_(SteadyDeadline(*context)),
      dialect_(std::move(dialect)),
      record_(environment, context, "Generate", dialect_->service()) {}

absl::Status GenerateStream::Admit() {
  MutexLock lock(&mutex_);
  return record_.Admit([weak = weak_from_this()](const absl::Status& why) {
    if (const auto stream = weak.lock()) stream->GiveUp(why);
  });
}

absl::Status GenerateStream::Begin(grpc::ByteBuffer* request, int64_t bytes) {
  absl::StatusOr<Engine*> engine = environment_->ReadyEngine();
  if (!engine.ok()) return engine.status();
  const v1::Limits& limits = environment_->Limits(**engine);
  absl::Status status = dialect_->Read(request, limits, &request_);
  if (status.ok()) status = CheckUnread();
  if (!status.ok()) return status;
  TakeName();
  absl::StatusOr<PreparedGenerate> prepared = PrepareGenerate(request_, **engine, limits);
  if (!prepared.ok()) return prepared.status();
  if (!name_.empty()) {
    auto named = environment_->named_answers.Find(name_);
    if (!named.ok()) return named.status();
    if (*named != nullptr) return Join(**engine, *std::move(named), prepared->stream_interval);
  }
  prepared->request.deadline = deadline_;
  prepared->request.arrival = SteadyNow();
  std::string owner;
  {
    MutexLock lock(&mutex_);
    prepared->request.principal = record_.principal();
    owner = record_.owner();
  }
  status = TakeSession(request_, **engine, &prepared->request);
  if (!status.ok()) return status;
  if (!HasText(request_)) return Submit(*engine, *std::move(prepared));
  text_->owner = std::move(owner);
  text_->bytes = bytes;
  text_->run = [stream = shared_from_this(), engine = *engine,
                prepared = *std::move(prepared)](const absl::Status& turn) mutable {
    stream->TokenizeAndSubmit(engine, std::move(prepared), turn);
  };
  return environment_->text_worker.Submit(text_);
}

absl::Status GenerateStream::CheckUnread() {
  if (!dialect_->tells_whole_samples()) return absl::OkStatus();
  MutexLock lock(&mutex_);
  return environment_->unread_answers.Check(record_.owner());
}

void GenerateStream::TakeName() {
  const std::string& id = request_.request_id();
  // Anything else is refused and must not reach the log.
  if (!IsValidRequestId(id)) return;
  {
    MutexLock lock(&mutex_);
    record_.SetRequestId(id);
    principal_ = record_.principal();
  }
  if (dialect_->names_answers()) {
    name_ = NameOf(request_, principal_);
  } else if (!id.empty()) {
    call_name_ = id;
    environment_->call_names.Add(principal_, call_name_, shared_from_this());
  }
}

void GenerateStream::TokenizeAndSubmit(Engine* engine, PreparedGenerate prepared,
                                       const absl::Status& turn) {
  if (!turn.ok()) return FailBeforeEngine(turn);
  absl::Status status =
      ReadTurn(request_, *engine, environment_->Limits(*engine), text_->over, &prepared.request);
  request_.Clear();
  if (status.ok()) status = Submit(engine, std::move(prepared));
  if (!status.ok()) FailBeforeEngine(status);
}

absl::Status GenerateStream::Submit(Engine* engine, PreparedGenerate prepared) {
  const AnswerStart start = StartOf(prepared.request);
  std::shared_ptr<NamedAnswer> answer;
  if (!name_.empty()) {
    bool begun = false;
    auto named = environment_->named_answers.FindOrBegin(name_, start, &begun);
    if (!named.ok()) return named.status();
    answer = *std::move(named);
    if (answer != nullptr && !begun)
      return Join(*engine, std::move(answer), prepared.stream_interval);
  }
  PrepareAnswer(*engine, start, prepared.stream_interval);
  dialect_->BeginAnswer(prepared.request.prompt);
  return ticket_.Submit(engine, std::move(prepared.request), shared_from_this(), std::move(answer));
}

absl::Status GenerateStream::Join(const Engine& engine, std::shared_ptr<NamedAnswer> named,
                                  int stream_interval) {
  PrepareAnswer(engine, named->start(), stream_interval);
  return ticket_.Join(std::move(named), shared_from_this());
}

void GenerateStream::PrepareAnswer(const Engine& engine, const AnswerStart& start,
                                   int stream_interval) {
  AnswerReceipts receipts(engine.model(), start);
  MutexLock lock(&mutex_);
  receipts_ = std::move(receipts);
  samples_.resize(static_cast<size_t>(start.samples));
  samples_left_ = samples_.size();
  stream_interval_ = stream_interval;
  if (dialect_->tells_text()) tokenizer_ = engine.tokenizer();
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
    if (left_) return true;
    record_.OnEvent(event);
    Sample& sample = samples_[static_cast<size_t>(event.index)];
    if (!broken_) {
      AppendEvent(event, tokenizer_, &receipts_, &sample.pending);
      sample.pending_tokens += static_cast<int>(event.tokens.size());
      sample.has_pending = true;
      pending_bytes_ += EventBytes(event);
    }
    if (event.finish != FinishReason::kNone) {
      sample.ended = true;
      --samples_left_;
      absl::Status status = environment_->FinishStatus(event);
      if (status_.ok()) status_ = std::move(status);
    }
    actions = Next();
    // Judged after Next: what is in flight is gRPC's and no longer pending.
    if (pending_bytes_ > environment_->options.max_pending_bytes && samples_left_ > 0 && writing_ &&
        !broken_ && !paused_ && !dialect_->tells_whole_samples()) {
      may_go_on = false;
      paused_ = true;
    }
    if (WaitsForReader() && !stall_timer_.running()) StartStallTimer();
  }
  Perform(actions);
  return may_go_on;
}

void GenerateStream::OnWriteDone(bool ok) {
  NetworkCallback callback(this);
  if (ok && WriteNext()) return;
  Actions actions;
  {
    MutexLock lock(&mutex_);
    writing_ = false;
    in_flight_.Clear();
    messages_.clear();
    if (!ok) broken_ = true;
    stall_timer_.Stop();  // it has read something
    actions = Next();
    if (WaitsForReader() && !stall_timer_.running()) StartStallTimer();
  }
  const bool leaves = !ok && ticket_.Cancel(/*may_return=*/true);
  Perform(actions);
  if (leaves) LeaveAnswer();
}

void GenerateStream::OnCancel() {
  NetworkCallback callback(this);
  GiveUp(SteadyNow() >= deadline_ ? absl::DeadlineExceededError("the deadline passed")
                                  : absl::CancelledError("the caller is gone"));
}

void GenerateStream::GiveUp(const absl::Status& why) {
  Actions actions;
  {
    MutexLock lock(&mutex_);
    broken_ = true;
    if (status_.ok()) status_ = why;
    actions = Next();
  }
  environment_->text_worker.Cancel(text_);
  const bool leaves = ticket_.Cancel(/*may_return=*/absl::IsCancelled(why));
  Perform(actions);
  if (leaves) LeaveAnswer();
}

void GenerateStream::Abort() {
  environment_->text_worker.Cancel(text_);
  ticket_.Cancel();
}

void GenerateStream::OnTakenOver() {
  GiveUp(absl::AbortedError("request_id: a later call of the same name is told the answer"));
}

void GenerateStream::LeaveAnswer() {
  Actions actions;
  {
    MutexLock lock(&mutex_);
    left_ = true;
    samples_left_ = 0;
    if (status_.ok()) status_ = absl::CancelledError("the caller is gone");
    actions = Next();
  }
  Perform(actions);
}

void GenerateStream::OnDone() {
  TakeFromNetwork(this);
  {
    MutexLock lock(&context_mutex_);
    done_ = true;
  }
  if (!call_name_.empty()) environment_->call_names.Remove(principal_, call_name_, this);
  std::shared_ptr<GenerateStream>
      last_share;  // destroys *this at the end, when the engine holds no share
  MutexLock lock(&mutex_);
  environment_->unread_answers.Remove(record_.owner(), unread_bytes_);
  stall_timer_.Stop();
  last_share = std::move(self_);
}

bool GenerateStream::WaitsForReader() const {
  return paused_ || (samples_left_ == 0 && (writing_ || finished_));
}

void GenerateStream::StartStallTimer() {
  const int stall = ++stalls_;
  stall_timer_.Start(ReadingTime(environment_->options.stall_timeout, in_flight_size_),
                     [weak = weak_from_this(), stall] {
                       if (const auto stream = weak.lock()) stream->OnStall(stall);
                     });
}

void GenerateStream::OnStall(int stall) {
  {
    MutexLock lock(&mutex_);
    if (stalls_ != stall || !stall_timer_.running()) return;
    broken_ = true;
    if (!finished_) {
      status_ = absl::CancelledError(
          absl::StrCat("the reader did not read for ",
                       absl::FormatDuration(environment_->options.stall_timeout)));
    }
  }
  ticket_.Cancel();
  {
    MutexLock lock(&context_mutex_);
    if (!done_) context_->TryCancel();  // frees the write that is stuck in flow control
  }
  Actions actions;
  {
    MutexLock lock(&mutex_);
    actions = Next();
  }
  Perform(actions);
}

bool GenerateStream::MayBeTold(const Sample& sample) const {
  if (sample.ended) return true;
  if (dialect_->tells_whole_samples()) return false;
  return !sample.begun || sample.pending_tokens >= stream_interval_ ||
         pending_bytes_ > environment_->options.max_pending_bytes;
}

bool GenerateStream::TakeReadyMessage() {
  for (size_t i = 0; i < samples_.size(); ++i) {
    const size_t index = (next_sample_ + i) % samples_.size();
    Sample& sample = samples_[index];
    if (!sample.has_pending || !MayBeTold(sample)) continue;
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
    in_flight_size_ = static_cast<int64_t>(in_flight_.ByteSizeLong());
    record_.OnMessage(in_flight_.index());
    if (dialect_->tells_whole_samples()) {
      unread_bytes_ += in_flight_size_;
      environment_->unread_answers.Add(record_.owner(), in_flight_size_);
    }
  }
  if (paused_ && (broken_ || pending_bytes_ <= environment_->options.max_pending_bytes / 2)) {
    paused_ = false;
    stall_timer_.Stop();
    actions.resume = true;
  }
  if (!actions.write && samples_left_ == 0) {
    finished_ = true;
    actions.finish = true;
    actions.status = status_;
    record_.End(status_, ticket_.id());
    StartStallTimer();
  }
  return actions;
}

bool GenerateStream::WriteNext() {
  {
    MutexLock lock(&mutex_);
    if (broken_ || next_message_ == messages_.size()) return false;
  }
  GiveToNetwork(this);
  StartWrite(&messages_[next_message_++]);
  return true;
}

void GenerateStream::Perform(const Actions& actions) {
  if (actions.resume) ticket_.Resume();
  if (actions.write) {
    next_message_ = 0;
    dialect_->Tell(in_flight_, &messages_);
    // A cleared message keeps its memory, which the next one of the usual size needs.
    if (messages_.front().Length() > kUsualMessage) v1::GenerateResponse().Swap(&in_flight_);
    GiveToNetwork(this);
    StartWrite(&messages_[next_message_++]);
  }
  if (!actions.finish) return;
  grpc::Status status = ToGrpcStatus(actions.status, context_);
  GiveToNetwork(this);
  Finish(std::move(status));
}

}  // namespace mambad::server
