#include "server/generation_service.h"

#include <utility>

#include "server/generate_stream.h"
#include "server/message_reader.h"
#include "server/network_thread.h"
#include "server/response_conversion.h"
#include "server/status_details.h"
#include "server/text_calls.h"
#include "server/unary_calls.h"
#include "server/version.h"
#include "server/wire_bytes.h"

namespace mambad::server {
namespace {

// A call that is answered once and never enters the engine.
class ShortCall final : public grpc::ServerUnaryReactor {
 public:
  ShortCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
            absl::string_view method)
      : context_(context), record_(environment, context, method) {}

  grpc::ServerUnaryReactor* End(const absl::Status& status) {
    record_.End(status, 0);
    grpc::Status end = ToGrpcStatus(status, context_);
    GiveToNetwork(this);
    Finish(std::move(end));
    return this;
  }
  void OnDone() override {
    TakeFromNetwork(this);
    delete this;
  }

 private:
  grpc::CallbackServerContext* const context_;
  CallRecord record_;
};

// Reads a request and answers it here and now. `describe` is told the engine, also while draining.
template <typename Request, typename Describe>
grpc::ServerUnaryReactor* AnswerNow(CallEnvironment* environment,
                                    grpc::CallbackServerContext* context, absl::string_view method,
                                    const grpc::ByteBuffer* bytes, grpc::ByteBuffer* response,
                                    Describe describe) {
  auto* const call = new ShortCall(environment, context, method);  // until OnDone
  grpc::ByteBuffer taken = TakeBytes(bytes);
  Request request;
  absl::Status status = CheckMetadata(context->client_metadata());
  if (status.ok()) status = ReadMessage(&taken, {}, &request);
  const Engine* engine = environment->engine.load();
  if (status.ok() && engine == nullptr) status = environment->ReadyEngine().status();
  if (status.ok()) *response = ToBytes(describe(*engine));
  return call->End(status);
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return GenerateStream::Start(environment_, context, request);
}

grpc::ServerUnaryReactor* GenerationService::GenerateOnce(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* response) {
  return GenerateOnceCall::Start(environment_, context, request, response);
}

grpc::ServerUnaryReactor* GenerationService::Score(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* response) {
  return ScoreCall::Start(environment_, context, request, response);
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  return TokenizeCall::Start(environment_, context, request, response);
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* response) {
  return DetokenizeCall::Start(environment_, context, request, response);
}

grpc::ServerUnaryReactor* GenerationService::GetModelInfo(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* response) {
  return AnswerNow<v1::GetModelInfoRequest>(
      environment_, context, "GetModelInfo", request, response, [this](const Engine& engine) {
        return DescribeModel(engine, environment_->Limits(engine), kVersion);
      });
}

grpc::ServerUnaryReactor* GenerationService::GetLoad(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return AnswerNow<v1::GetLoadRequest>(
      environment_, context, "GetLoad", request, response, [this](const Engine& engine) {
        return DescribeLoad(engine, environment_->text_worker.Load(),
                            environment_->draining.load());
      });
}

}  // namespace mambad::server
