// Service mambad.v1.Generation: each method hands its call over and returns.

#ifndef MAMBAD_SERVER_GENERATION_SERVICE_H_
#define MAMBAD_SERVER_GENERATION_SERVICE_H_

#include "mambad/v1/generation.grpc.pb.h"
#include "server/call_environment.h"

namespace mambad::server {

// The methods get bytes, which their calls read themselves (message_reader.h).
using GenerationBytes = v1::Generation::WithRawCallbackMethod_Generate<
    v1::Generation::WithRawCallbackMethod_GenerateOnce<
        v1::Generation::WithRawCallbackMethod_Score<v1::Generation::WithRawCallbackMethod_Tokenize<
            v1::Generation::WithRawCallbackMethod_Detokenize<
                v1::Generation::WithRawCallbackMethod_GetModelInfo<
                    v1::Generation::WithRawCallbackMethod_GetLoad<v1::Generation::Service>>>>>>>;

class GenerationService final : public GenerationBytes {
 public:
  explicit GenerationService(CallEnvironment* environment) : environment_(environment) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* GenerateOnce(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer* request,
                                    grpc::ByteBuffer* response) override;

 private:
  CallEnvironment* const environment_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_GENERATION_SERVICE_H_
