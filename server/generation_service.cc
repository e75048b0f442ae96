#include "server/generation_service.h"

#include <utility>

#include "server/generate_stream.h"
#include "server/request_conversion.h"
#include "server/response_conversion.h"
#include "server/status_details.h"
#include "server/text_conversion.h"
#include "server/unary_calls.h"
#include "server/version.h"

namespace mambad::server {
namespace {

grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context,
                                    const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status, context));
  return reactor;
}

// Runs `convert` (engine -> StatusOr<Response>) on a text worker.
template <typename Response, typename Convert>
grpc::ServerUnaryReactor* FinishFromWorker(CallEnvironment* environment,
                                           grpc::CallbackServerContext* context, Response* response,
                                           Convert convert) {
  absl::StatusOr<Engine*> engine = environment->ReadyEngine();
  if (!engine.ok()) return FinishNow(context, engine.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  environment->text_worker.Run([=, engine = *engine] {
    absl::StatusOr<Response> result = convert(*engine);
    if (result.ok()) *response = *std::move(result);
    reactor->Finish(ToGrpcStatus(result.status(), context));
  });
  return reactor;
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
  return FinishFromWorker(environment_, context, response, [this, request](const Engine& engine) {
    return server::Tokenize(*request, engine,
                            EffectiveLimits(engine, environment_->options.limits));
  });
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* context,
                                                        const v1::DetokenizeRequest* request,
                                                        v1::DetokenizeResponse* response) {
  return FinishFromWorker(environment_, context, response, [this, request](const Engine& engine) {
    return server::Detokenize(*request, engine,
                              EffectiveLimits(engine, environment_->options.limits));
  });
}

grpc::ServerUnaryReactor* GenerationService::GetModelInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetModelInfoRequest*,
                                                          v1::GetModelInfoResponse* response) {
  const Engine* engine = environment_->engine.load();  // also while draining
  if (engine == nullptr) return FinishNow(context, environment_->ReadyEngine().status());
  *response = DescribeModel(*engine, environment_->options.limits, kVersion);
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* GenerationService::GetLoad(grpc::CallbackServerContext* context,
                                                     const v1::GetLoadRequest*,
                                                     v1::GetLoadResponse* response) {
  const Engine* engine = environment_->engine.load();  // also while draining
  if (engine == nullptr) return FinishNow(context, environment_->ReadyEngine().status());
  *response = DescribeLoad(*engine, environment_->draining.load());
  return FinishNow(context, absl::OkStatus());
}

}  // namespace mambad::server
