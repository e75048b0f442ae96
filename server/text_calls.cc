#include "server/text_calls.h"

#include <utility>

#include "server/message_reader.h"
#include "server/request_conversion.h"
#include "server/text_conversion.h"
#include "server/wire_bytes.h"

namespace mambad::server {

absl::Status TextCall::Begin(grpc::ByteBuffer* request, int64_t bytes) {
  absl::StatusOr<Engine*> engine = environment_->ReadyEngine();
  if (!engine.ok()) return engine.status();
  absl::Status status = Prepare(request, **engine, environment_->Limits(**engine));
  if (!status.ok()) return status;
  text_->owner = owner_;
  text_->bytes = bytes;
  text_->run = [this, call = shared_from_this(), engine = *engine](const absl::Status& turn) {
    WorkAndAnswer(*engine, turn);
  };
  return environment_->text_worker.Submit(text_);
}

void TextCall::WorkAndAnswer(const Engine& engine, const absl::Status& turn) {
  absl::StatusOr<grpc::ByteBuffer> answer(absl::UnknownError(""));
  if (turn.ok()) {
    answer = Work(engine, environment_->Limits(engine), text_->over);
  } else {
    answer = turn;
  }
  if (answer.ok()) return Answer(*std::move(answer));
  absl::Status status = answer.status();
  {
    MutexLock lock(&mutex_);
    if (!given_up_.ok()) status = given_up_;
  }
  End(status);
}

void TextCall::Abandon(const absl::Status& why) {
  {
    MutexLock lock(&mutex_);
    given_up_ = why;
  }
  environment_->text_worker.Cancel(text_);
}

void TextCall::Record(const absl::Status& status) {
  MutexLock lock(&mutex_);
  record_.End(status, 0);
}

grpc::ServerUnaryReactor* TokenizeCall::Start(CallEnvironment* environment,
                                              grpc::CallbackServerContext* context,
                                              const grpc::ByteBuffer* request,
                                              grpc::ByteBuffer* response) {
  return Launch(
      std::shared_ptr<UnaryCall>(new TokenizeCall(environment, context, response, "Tokenize")),
      request);
}

absl::Status TokenizeCall::Prepare(grpc::ByteBuffer* bytes, const Engine& engine,
                                   const v1::Limits& limits) {
  absl::Status status = ReadMessage(bytes, EntryLimitsOf(limits), &request_);
  return status.ok() ? CheckTokenize(request_, engine, limits) : status;
}

absl::StatusOr<grpc::ByteBuffer> TokenizeCall::Work(const Engine& engine, const v1::Limits&,
                                                    const std::atomic<bool>& over) {
  return Tokenize(&request_, engine, over);
}

grpc::ServerUnaryReactor* DetokenizeCall::Start(CallEnvironment* environment,
                                                grpc::CallbackServerContext* context,
                                                const grpc::ByteBuffer* request,
                                                grpc::ByteBuffer* response) {
  return Launch(
      std::shared_ptr<UnaryCall>(new DetokenizeCall(environment, context, response, "Detokenize")),
      request);
}

absl::Status DetokenizeCall::Prepare(grpc::ByteBuffer* bytes, const Engine& engine,
                                     const v1::Limits& limits) {
  absl::Status status = ReadMessage(bytes, EntryLimitsOf(limits), &request_);
  return status.ok() ? CheckDetokenize(request_, engine, limits) : status;
}

absl::StatusOr<grpc::ByteBuffer> DetokenizeCall::Work(const Engine& engine, const v1::Limits&,
                                                      const std::atomic<bool>&) {
  return ToBytes(Detokenize(request_, engine));
}

}  // namespace mambad::server
