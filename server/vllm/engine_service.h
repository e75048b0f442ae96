// Service vllm.grpc.engine.VllmEngine: a second door to the same engine, for LLM routers. Requests
// go the way that those of mambad.v1 go, within the same limits.

#ifndef MAMBAD_SERVER_VLLM_ENGINE_SERVICE_H_
#define MAMBAD_SERVER_VLLM_ENGINE_SERVICE_H_

#include "absl/time/time.h"
#include "server/call_environment.h"
#include "server/vllm/tokenizer_stream.h"
#include "vllm/vllm_engine.grpc.pb.h"

namespace mambad::server {

// The methods get bytes, which their calls read themselves (message_reader.h).
using VllmWire = ::vllm::grpc::engine::VllmEngine;
using VllmBytes =
    VllmWire::WithRawCallbackMethod_Generate<VllmWire::WithRawCallbackMethod_HealthCheck<
        VllmWire::WithRawCallbackMethod_Abort<VllmWire::WithRawCallbackMethod_GetModelInfo<
            VllmWire::WithRawCallbackMethod_GetServerInfo<VllmWire::WithRawCallbackMethod_GetLoads<
                VllmWire::WithRawCallbackMethod_GetTokenizer<VllmWire::Service>>>>>>>;

class VllmEngineService final : public VllmBytes {
 public:
  explicit VllmEngineService(CallEnvironment* environment);

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* HealthCheck(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetLoads(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* GetTokenizer(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override;

 private:
  CallEnvironment* const environment_;
  const absl::Time start_;  // steady time
  TokenizerArchive archive_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_VLLM_ENGINE_SERVICE_H_
