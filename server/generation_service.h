// Service mambad.v1.Generation: each method hands its call over and returns.

#ifndef MAMBAD_SERVER_GENERATION_SERVICE_H_
#define MAMBAD_SERVER_GENERATION_SERVICE_H_

#include "mambad/v1/generation.grpc.pb.h"
#include "server/call_environment.h"

namespace mambad::server {

class GenerationService final : public v1::Generation::CallbackService {
 public:
  explicit GenerationService(CallEnvironment* environment) : environment_(environment) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* GenerateOnce(grpc::CallbackServerContext* context,
                                         const v1::GenerateRequest* request,
                                         v1::GenerateResponse* response) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* request,
                                         v1::GetModelInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const v1::GetLoadRequest* request,
                                    v1::GetLoadResponse* response) override;

 private:
  CallEnvironment* const environment_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_GENERATION_SERVICE_H_
