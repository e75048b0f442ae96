#include "server/generation_service.h"

#include <utility>

#include "server/generate_stream.h"
#include "server/network_thread.h"
#include "server/request_conversion.h"
#include "server/response_conversion.h"
#include "server/status_details.h"
#include "server/text_conversion.h"
#include "server/unary_calls.h"
#include "server/version.h"

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
    GiveToNetwork(this);
    Finish(ToGrpcStatus(status, context_));
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

// Runs `convert` (engine -> StatusOr<Response>) on a text worker.
template <typename Response, typename Convert>
grpc::ServerUnaryReactor* FinishFromWorker(CallEnvironment* environment, ShortCall* call,
                                           Response* response, Convert convert) {
  absl::StatusOr<Engine*> engine = environment->ReadyEngine();
  if (!engine.ok()) return call->End(engine.status());
  environment->text_worker.Run([=, engine = *engine] {
    absl::StatusOr<Response> result = convert(*engine);
    if (result.ok()) *response = *std::move(result);
    call->End(result.status());
  });
  return call;
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  return GenerateStream::Start(environment_, context, request);
}

grpc::ServerUnaryReactor* GenerationService::GenerateOnce(grpc::CallbackServerContext* context,
                                                          const v1::GenerateRequest* request,
                                                          v1::GenerateResponse* response) {
  return GenerateOnceCall::Start(environment_, context, request, response);
}

grpc::ServerUnaryReactor* GenerationService::Score(grpc::CallbackServerContext* context,
                                                   const v1::ScoreRequest* request,
                                                   v1::ScoreResponse* response) {
  return ScoreCall::Start(environment_, context, request, response);
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(grpc::CallbackServerContext* context,
                                                      const v1::TokenizeRequest* request,
                                                      v1::TokenizeResponse* response) {
  return FinishFromWorker(environment_, new ShortCall(environment_, context, "Tokenize"), response,
                          [this, request](const Engine& engine) {
    return server::Tokenize(*request, engine,
                            EffectiveLimits(engine, environment_->options.limits));
  });
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* context,
                                                        const v1::DetokenizeRequest* request,
                                                        v1::DetokenizeResponse* response) {
  return FinishFromWorker(environment_, new ShortCall(environment_, context, "Detokenize"), response,
                          [this, request](const Engine& engine) {
    return server::Detokenize(*request, engine,
                              EffectiveLimits(engine, environment_->options.limits));
  });
}

grpc::ServerUnaryReactor* GenerationService::GetModelInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetModelInfoRequest*,
                                                          v1::GetModelInfoResponse* response) {
  auto* const call = new ShortCall(environment_, context, "GetModelInfo");  // until OnDone
  const Engine* engine = environment_->engine.load();               // also while draining
  if (engine == nullptr) return call->End(environment_->ReadyEngine().status());
  *response = DescribeModel(*engine, environment_->options.limits, kVersion);
  return call->End(absl::OkStatus());
}

grpc::ServerUnaryReactor* GenerationService::GetLoad(grpc::CallbackServerContext* context,
                                                     const v1::GetLoadRequest*,
                                                     v1::GetLoadResponse* response) {
  auto* const call = new ShortCall(environment_, context, "GetLoad");  // until OnDone
  const Engine* engine = environment_->engine.load();               // also while draining
  if (engine == nullptr) return call->End(environment_->ReadyEngine().status());
  *response = DescribeLoad(*engine, environment_->draining.load());
  return call->End(absl::OkStatus());
}

}  // namespace mambad::server
