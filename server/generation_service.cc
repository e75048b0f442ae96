#include "server/generation_service.h"

#include "server/generate_stream.h"
#include "server/response_conversion.h"
#include "server/short_call.h"
#include "server/text_calls.h"
#include "server/unary_calls.h"
#include "server/version.h"

namespace mambad::server {

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return GenerateStream::Start(environment_, context, request, MakeOwnDialect());
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
      environment_, context, kGenerationService, "GetModelInfo", request, response,
      [this](const Engine& engine) {
        return DescribeModel(engine, environment_->Limits(engine), kVersion);
      });
}

grpc::ServerUnaryReactor* GenerationService::GetLoad(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return AnswerNow<v1::GetLoadRequest>(environment_, context, kGenerationService, "GetLoad",
                                       request, response, [this](const Engine& engine) {
                                         return DescribeLoad(engine,
                                                             environment_->text_worker.Load(),
                                                             environment_->draining.load());
                                       });
}

}  // namespace mambad::server
