#include "server/unary_call.h"

#include <utility>

#include "mambad/v1/generation.grpc.pb.h"
#include "server/network_thread.h"
#include "server/status_details.h"
#include "server/wire_bytes.h"

namespace mambad::server {

UnaryCall::UnaryCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
                     grpc::ByteBuffer* response, absl::string_view method,
                     absl::string_view service)
    : environment_(environment),
      context_(context),
      deadline_(SteadyDeadline(*context)),
      record_(environment, context, method, service),
      response_(response) {}

grpc::ServerUnaryReactor* UnaryCall::Launch(std::shared_ptr<UnaryCall> call,
                                            const grpc::ByteBuffer* request) {
  UnaryCall* reactor = call.get();
  {
    MutexLock lock(&reactor->mutex_);
    reactor->self_ = std::move(call);
  }
  grpc::ByteBuffer bytes = TakeBytes(request);
  const auto size = static_cast<int64_t>(bytes.Length());
  reactor->environment_->text_worker.NoteRequest(size);
  absl::Status status = reactor->Admit();
  if (status.ok()) status = reactor->Begin(&bytes, size);
  if (!status.ok()) reactor->End(status);
  GiveToNetwork(reactor);
  return reactor;
}

absl::Status UnaryCall::Admit() {
  MutexLock lock(&mutex_);
  absl::Status status = record_.Admit([weak = weak_from_this()](const absl::Status& why) {
    if (const auto call = weak.lock()) call->Abandon(why);
  });
  principal_ = record_.principal();
  owner_ = record_.owner();
  return status.ok() ? environment_->unread_answers.Check(owner_) : status;
}

void UnaryCall::OnCancel() {
  NetworkCallback callback(this);
  Abandon(SteadyNow() >= deadline_ ? absl::DeadlineExceededError("the deadline passed")
                                   : absl::CancelledError("the caller is gone"));
}

void UnaryCall::OnDone() {
  TakeFromNetwork(this);
  {
    MutexLock lock(&context_mutex_);
    done_ = true;
  }
  std::shared_ptr<UnaryCall> last_share;  // destroys *this at the end, without the lock
  MutexLock lock(&mutex_);
  environment_->unread_answers.Remove(owner_, unread_bytes_);
  stall_timer_.Stop();
  last_share = std::move(self_);
}

void UnaryCall::Answer(grpc::ByteBuffer answer) {
  Record(absl::OkStatus());
  const auto size = static_cast<int64_t>(answer.Length());
  response_->Swap(&answer);
  environment_->unread_answers.Add(owner_, size);
  {
    MutexLock lock(&mutex_);
    unread_bytes_ = size;
  }
  StartStallTimer(size);
  GiveToNetwork(this);
  Finish(grpc::Status::OK);
}

void UnaryCall::End(const absl::Status& status) {
  Record(status);
  StartStallTimer(0);
  grpc::Status end = ToGrpcStatus(status, context_);
  GiveToNetwork(this);
  Finish(std::move(end));
}

// Before Finish: afterwards the call may be gone.
void UnaryCall::StartStallTimer(int64_t bytes) {
  MutexLock lock(&mutex_);
  stall_timer_.Start(ReadingTime(environment_->options.stall_timeout, bytes),
                     [weak = weak_from_this()] {
                       if (const auto call = weak.lock()) call->GiveUp();
                     });
}

void UnaryCall::GiveUp() {
  MutexLock lock(&context_mutex_);
  if (!done_) context_->TryCancel();  // frees the answer that is stuck in flow control
}

}  // namespace mambad::server
