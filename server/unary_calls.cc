#include "server/unary_calls.h"

#include <utility>

#include "server/message_reader.h"
#include "server/request_conversion.h"
#include "server/response_conversion.h"
#include "server/session_turns.h"
#include "server/status_details.h"

namespace mambad::server {

// ---- what both have in common -------------------------------------------------------------------

absl::Status UnaryEngineCall::Begin(grpc::ByteBuffer* request, int64_t bytes) {
  absl::StatusOr<Engine*> engine = environment_->ReadyEngine();
  if (!engine.ok()) return engine.status();
  absl::StatusOr<Request> prepared = Prepare(request, **engine, environment_->Limits(**engine));
  // Anything else is refused and must not reach the log.
  if (IsValidRequestId(request_id())) {
    MutexLock lock(&mutex_);
    record_.SetRequestId(request_id());
  }
  if (!prepared.ok()) return prepared.status();
  if (!name_.empty()) {
    auto named = environment_->named_answers.Find(name_);
    if (!named.ok()) return named.status();
    if (*named != nullptr) return Join(**engine, *std::move(named));
  }
  prepared->deadline = deadline_;
  prepared->principal = principal_;
  prepared->arrival = SteadyNow();
  if (absl::Status status = TakeSession(**engine, &*prepared); !status.ok()) return status;
  if (!has_text()) return Submit(*engine, *std::move(prepared));
  text_->owner = owner_;
  text_->bytes = bytes;
  text_->run = [this, call = shared_from_this(), engine = *engine,
                request = *std::move(prepared)](const absl::Status& turn) mutable {
    TokenizeAndSubmit(engine, std::move(request), turn);
  };
  return environment_->text_worker.Submit(text_);
}

void UnaryEngineCall::TokenizeAndSubmit(Engine* engine, Request request, const absl::Status& turn) {
  absl::Status status = turn;
  if (status.ok()) {
    status = ReadPrompt(*engine, environment_->Limits(*engine), text_->over, &request);
    if (status.ok()) status = Submit(engine, std::move(request));
  }
  if (status.ok()) return;
  {
    MutexLock lock(&mutex_);
    if (!status_.ok()) status = status_;  // why it was given up
  }
  End(status);
}

absl::Status UnaryEngineCall::Submit(Engine* engine, Request request) {
  const AnswerStart start = StartOf(request);
  std::shared_ptr<NamedAnswer> answer;
  if (!name_.empty()) {
    bool begun = false;
    auto named = environment_->named_answers.FindOrBegin(name_, start, &begun);
    if (!named.ok()) return named.status();
    answer = *std::move(named);
    if (answer != nullptr && !begun) return Join(*engine, std::move(answer));
  }
  {
    MutexLock lock(&mutex_);
    samples_left_ = start.samples;
  }
  Begun(*engine, request, start);
  return ticket_.Submit(engine, std::move(request),
                        std::static_pointer_cast<UnaryEngineCall>(shared_from_this()),
                        std::move(answer));
}

absl::Status UnaryEngineCall::Join(const Engine& engine, std::shared_ptr<NamedAnswer> named) {
  {
    MutexLock lock(&mutex_);
    samples_left_ = named->start().samples;
  }
  Joined(engine, named->start());
  return ticket_.Join(std::move(named),
                      std::static_pointer_cast<UnaryEngineCall>(shared_from_this()));
}

bool UnaryEngineCall::OnEvent(const TokenEvent& event) {
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    if (left_) return true;
    record_.OnEvent(event);
    Gather(event);
    if (event.finish == FinishReason::kNone) return true;
    absl::Status finish = environment_->FinishStatus(event);
    if (status_.ok()) status_ = std::move(finish);
    if (--samples_left_ > 0) return true;
    status = status_;
  }
  if (status.ok()) {
    Answer(TakeAnswer());
  } else {
    End(status);
  }
  return true;
}

void UnaryEngineCall::Abandon(const absl::Status& why) {
  {
    MutexLock lock(&mutex_);
    if (status_.ok()) status_ = why;
  }
  environment_->text_worker.Cancel(text_);
  if (!ticket_.Cancel(/*may_return=*/absl::IsCancelled(why))) return;
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    // The last event may have ended it.
    if (left_ || samples_left_ == 0) return;
    left_ = true;
    status = status_;
  }
  End(status);
}

void UnaryEngineCall::OnTakenOver() {
  Abandon(absl::AbortedError("request_id: a later call of the same name is told the answer"));
}

void UnaryEngineCall::Record(const absl::Status& status) {
  MutexLock lock(&mutex_);
  record_.End(status, ticket_.id());
}

// ---- GenerateOnce -------------------------------------------------------------------------------

grpc::ServerUnaryReactor* GenerateOnceCall::Start(CallEnvironment* environment,
                                                  grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request,
                                                  grpc::ByteBuffer* response) {
  return Launch(std::shared_ptr<UnaryCall>(
                    new GenerateOnceCall(environment, context, response, "GenerateOnce")),
                request);
}

absl::StatusOr<Request> GenerateOnceCall::Prepare(grpc::ByteBuffer* bytes, const Engine& engine,
                                                  const v1::Limits& limits) {
  absl::Status status = ReadMessage(bytes, EntryLimitsOf(limits), &request_);
  if (!status.ok()) return status;
  if (IsValidRequestId(request_.request_id())) name_ = NameOf(request_, principal_);
  absl::StatusOr<PreparedGenerate> prepared = PrepareGenerate(request_, engine, limits);
  if (!prepared.ok()) return prepared.status();
  tokenizer_ = engine.tokenizer();
  return std::move(prepared->request);
}

bool GenerateOnceCall::has_text() const { return HasText(request_); }

absl::Status GenerateOnceCall::TakeSession(Engine& engine, Request* request) {
  return server::TakeSession(request_, engine, request);
}

absl::Status GenerateOnceCall::ReadPrompt(const Engine& engine, const v1::Limits& limits,
                                          const std::atomic<bool>& over, Request* request) {
  const absl::Status status = ReadTurn(request_, engine, limits, over, request);
  request_.Clear();
  return status;
}

void GenerateOnceCall::Begun(const Engine& engine, const Request& /*request*/,
                             const AnswerStart& start) {
  Joined(engine, start);
}

void GenerateOnceCall::Joined(const Engine& engine, const AnswerStart& start) {
  for (int i = 1; i < start.samples; ++i) response_.add_further_samples();
  receipts_ = AnswerReceipts(engine.model(), start);
}

void GenerateOnceCall::Gather(const TokenEvent& event) {
  AppendEvent(event, tokenizer_, &receipts_,
              event.index == 0 ? &response_ : response_.mutable_further_samples(event.index - 1));
}

// ---- Score --------------------------------------------------------------------------------------

grpc::ServerUnaryReactor* ScoreCall::Start(CallEnvironment* environment,
                                           grpc::CallbackServerContext* context,
                                           const grpc::ByteBuffer* request,
                                           grpc::ByteBuffer* response) {
  return Launch(std::shared_ptr<UnaryCall>(new ScoreCall(environment, context, response, "Score")),
                request);
}

absl::StatusOr<Request> ScoreCall::Prepare(grpc::ByteBuffer* bytes, const Engine& engine,
                                           const v1::Limits& limits) {
  absl::Status status = ReadMessage(bytes, EntryLimitsOf(limits), &request_);
  if (!status.ok()) return status;
  tokenizer_ = engine.tokenizer();
  return PrepareScore(request_, engine, limits);
}

bool ScoreCall::has_text() const { return request_.input_case() == v1::ScoreRequest::kText; }

absl::Status ScoreCall::ReadPrompt(const Engine& engine, const v1::Limits& limits,
                                   const std::atomic<bool>& over, Request* request) {
  auto prompt = server::ReadPrompt(request_, engine, limits, over);
  request_.clear_text();
  if (prompt.ok()) request->prompt = *std::move(prompt);
  return prompt.status();
}

void ScoreCall::Begun(const Engine& /*engine*/, const Request& request,
                      const AnswerStart& /*start*/) {
  response_.mutable_token_ids()->Add(request.prompt.begin(), request.prompt.end());
  response_.set_from(*request.score_from);
}

void ScoreCall::Gather(const TokenEvent& event) {
  for (const TokenLogprob& logprob : event.prompt_logprobs) {
    AppendLogprob(logprob, tokenizer_, response_.add_logprobs());
    response_.set_total_logprob(response_.total_logprob() + double{logprob.logprob});
    const bool most_likely =
        !logprob.alternatives.empty() && logprob.alternatives[0].first == logprob.id;
    if (most_likely && response_.greedy_tokens() == response_.logprobs_size() - 1) {
      response_.set_greedy_tokens(response_.logprobs_size());
    }
  }
  if (!event.stats.has_value()) return;
  FillUsage(*event.stats, response_.mutable_usage());
  FillTiming(*event.stats, response_.mutable_timing());
}

}  // namespace mambad::server
