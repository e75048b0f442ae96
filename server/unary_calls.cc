#include "server/unary_calls.h"

#include <utility>

#include "absl/time/clock.h"
#include "server/network_thread.h"
#include "server/request_conversion.h"
#include "server/response_conversion.h"
#include "server/status_details.h"

namespace mambad::server {

UnaryEngineCall::UnaryEngineCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
                                 absl::string_view method, const std::string& request_id)
    : environment_(environment), context_(context), record_(environment, context, method) {
  // Anything else is refused by Prepare and must not reach the log.
  if (IsValidRequestId(request_id)) record_.SetRequestId(request_id);
}

grpc::ServerUnaryReactor* UnaryEngineCall::Start(std::shared_ptr<UnaryEngineCall> call) {
  UnaryEngineCall* reactor = call.get();
  {
    MutexLock lock(&reactor->mutex_);
    reactor->self_ = call;
  }
  absl::StatusOr<Engine*> engine = reactor->environment_->ReadyEngine();
  if (engine.ok()) {
    reactor->environment_->text_worker.Run(
        [call = std::move(call), engine = *engine] { call->PrepareAndSubmit(engine); });
  } else {
    call->End(engine.status());
  }
  GiveToNetwork(reactor);
  return reactor;
}

void UnaryEngineCall::PrepareAndSubmit(Engine* engine) {
  absl::StatusOr<Request> request = Prepare(*engine, DeadlineOf(*context_));
  if (!request.ok()) return End(request.status());
  {
    MutexLock lock(&mutex_);
    samples_left_ = request->output.samples;
  }
  absl::Status status = ticket_.Submit(engine, *std::move(request), shared_from_this());
  if (!status.ok()) End(status);
}

bool UnaryEngineCall::OnEvent(const TokenEvent& event) {
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    record_.OnEvent(event);
    Gather(event);
    if (event.finish == FinishReason::kNone) return true;
    absl::Status finish = FinishStatus(event.finish, event.error, environment_->draining.load());
    if (status_.ok()) status_ = std::move(finish);
    if (--samples_left_ > 0) return true;
    status = status_;
  }
  End(status);
  return true;
}

void UnaryEngineCall::OnCancel() {
  NetworkCallback callback(this);
  {
    MutexLock lock(&mutex_);
    const bool late = DeadlineOf(*context_) <= absl::Now();
    if (status_.ok()) {
      status_ = late ? absl::DeadlineExceededError("the deadline passed")
                     : absl::CancelledError("the caller is gone");
    }
  }
  ticket_.Cancel();
}

void UnaryEngineCall::OnDone() {
  TakeFromNetwork(this);
  std::shared_ptr<UnaryEngineCall> last_share;  // destroys *this at the end, without the lock
  MutexLock lock(&mutex_);
  last_share = std::move(self_);
}

void UnaryEngineCall::End(const absl::Status& status) {
  {
    MutexLock lock(&mutex_);
    record_.End(status, ticket_.id());
  }
  Finish(ToGrpcStatus(status, context_));
}

grpc::ServerUnaryReactor* GenerateOnceCall::Start(CallEnvironment* environment,
                                                  grpc::CallbackServerContext* context,
                                                  const v1::GenerateRequest* request,
                                                  v1::GenerateResponse* response) {
  return UnaryEngineCall::Start(std::shared_ptr<UnaryEngineCall>(
      new GenerateOnceCall(environment, context, request, response)));
}

GenerateOnceCall::GenerateOnceCall(CallEnvironment* environment,
                                   grpc::CallbackServerContext* context,
                                   const v1::GenerateRequest* request,
                                   v1::GenerateResponse* response)
    : UnaryEngineCall(environment, context, "GenerateOnce", request->request_id()),
      request_(request),
      response_(response) {}

absl::StatusOr<Request> GenerateOnceCall::Prepare(const Engine& engine, absl::Time deadline) {
  absl::StatusOr<PreparedGenerate> prepared =
      PrepareGenerate(*request_, engine, environment_->options.limits, deadline);
  if (!prepared.ok()) return prepared.status();
  for (int i = 1; i < prepared->request.output.samples; ++i) response_->add_further_samples();
  seed_ = prepared->request.sampling.seed;
  tokenizer_ = engine.tokenizer();
  return std::move(prepared->request);
}

void GenerateOnceCall::Gather(const TokenEvent& event) {
  AppendEvent(event, seed_, tokenizer_,
              event.index == 0 ? response_ : response_->mutable_further_samples(event.index - 1));
}

grpc::ServerUnaryReactor* ScoreCall::Start(CallEnvironment* environment,
                                           grpc::CallbackServerContext* context,
                                           const v1::ScoreRequest* request,
                                           v1::ScoreResponse* response) {
  return UnaryEngineCall::Start(
      std::shared_ptr<UnaryEngineCall>(new ScoreCall(environment, context, request, response)));
}

ScoreCall::ScoreCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
                     const v1::ScoreRequest* request, v1::ScoreResponse* response)
    : UnaryEngineCall(environment, context, "Score", request->request_id()),
      request_(request),
      response_(response) {}

absl::StatusOr<Request> ScoreCall::Prepare(const Engine& engine, absl::Time deadline) {
  absl::StatusOr<Request> prepared =
      PrepareScore(*request_, engine, environment_->options.limits, deadline);
  if (!prepared.ok()) return prepared;
  response_->mutable_token_ids()->Add(prepared->prompt.begin(), prepared->prompt.end());
  response_->set_from(*prepared->score_from);
  tokenizer_ = engine.tokenizer();
  return prepared;
}

void ScoreCall::Gather(const TokenEvent& event) {
  for (const TokenLogprob& logprob : event.prompt_logprobs) {
    AppendLogprob(logprob, tokenizer_, response_->add_logprobs());
    response_->set_total_logprob(response_->total_logprob() + double{logprob.logprob});
    const bool most_likely =
        !logprob.alternatives.empty() && logprob.alternatives[0].first == logprob.id;
    if (most_likely && response_->greedy_tokens() == response_->logprobs_size() - 1) {
      response_->set_greedy_tokens(response_->logprobs_size());
    }
  }
  if (!event.stats.has_value()) return;
  FillUsage(*event.stats, response_->mutable_usage());
  FillTiming(*event.stats, response_->mutable_timing());
}

}  // namespace mambad::server
