#include "server/vllm/engine_service.h"

#include "absl/time/clock.h"
#include "engine/steady_time.h"
#include "server/generate_stream.h"
#include "server/short_call.h"
#include "server/vllm/descriptions.h"
#include "server/vllm/dialect.h"

namespace mambad::server {

namespace vllm = ::vllm::grpc::engine;

VllmEngineService::VllmEngineService(CallEnvironment* environment)
    : environment_(environment), start_(SteadyNow()) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* VllmEngineService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return GenerateStream::Start(environment_, context, request, MakeVllmDialect());
}

grpc::ServerUnaryReactor* VllmEngineService::HealthCheck(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request,
                                                         grpc::ByteBuffer* response) {
  return AnswerRequest<vllm::HealthCheckRequest>(
      environment_, context, kVllmService, "HealthCheck", request, response,
      [this](const vllm::HealthCheckRequest&, ShortCall*) {
        vllm::HealthCheckResponse health;
        health.set_healthy(environment_->serving.load());
        const char* words = "serving";
        if (!health.healthy()) words = "not serving: the log says why";
        if (environment_->engine.load() == nullptr) words = "loading";
        if (environment_->draining.load()) words = "draining";
        health.set_message(words);
        return absl::StatusOr<vllm::HealthCheckResponse>(std::move(health));
      });
}

grpc::ServerUnaryReactor* VllmEngineService::Abort(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* response) {
  return AnswerRequest<vllm::AbortRequest>(
      environment_, context, kVllmService, "Abort", request, response,
      [this](const vllm::AbortRequest& wire,
             ShortCall* call) -> absl::StatusOr<vllm::AbortResponse> {
        if (absl::Status status = call->Admit(); !status.ok()) return status;
        for (const std::string& id : wire.request_ids())
          environment_->call_names.Abort(call->principal(), id);
        return vllm::AbortResponse();
      });
}

grpc::ServerUnaryReactor* VllmEngineService::GetModelInfo(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request,
                                                          grpc::ByteBuffer* response) {
  return AnswerNow<vllm::GetModelInfoRequest>(
      environment_, context, kVllmService, "GetModelInfo", request, response,
      [this](const Engine& engine) {
        return DescribeForVllm(engine, environment_->Limits(engine),
                               ServedName(environment_->options.model_name, engine.model()));
      });
}

grpc::ServerUnaryReactor* VllmEngineService::GetServerInfo(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  return AnswerNow<vllm::GetServerInfoRequest>(
      environment_, context, kVllmService, "GetServerInfo", request, response,
      [this](const Engine& engine) {
        return DescribeServerForVllm(engine, environment_->text_worker.Load(),
                                     environment_->draining.load(), SteadyNow() - start_);
      });
}

grpc::ServerUnaryReactor* VllmEngineService::GetLoads(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  return AnswerRequest<vllm::GetLoadsRequest>(
      environment_, context, kVllmService, "GetLoads", request, response,
      [this](const vllm::GetLoadsRequest& wire,
             ShortCall*) -> absl::StatusOr<vllm::GetLoadsResponse> {
        const Engine* engine = environment_->engine.load();
        if (engine == nullptr) return environment_->ReadyEngine().status();
        return DescribeLoadsForVllm(wire, *engine, environment_->text_worker.Load(), absl::Now());
      });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* VllmEngineService::GetTokenizer(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return TokenizerStream::Start(environment_, &archive_, context, request);
}

}  // namespace mambad::server
