// Service mambad.v1.Sessions: each method hands its call over and returns.

#ifndef MAMBAD_SERVER_SESSIONS_SERVICE_H_
#define MAMBAD_SERVER_SESSIONS_SERVICE_H_

#include "mambad/v1/session.grpc.pb.h"
#include "server/call_environment.h"

namespace mambad::server {

// The methods get bytes, which their calls read themselves (message_reader.h).
using SessionsBytes = v1::Sessions::WithRawCallbackMethod_Create<
    v1::Sessions::WithRawCallbackMethod_Get<v1::Sessions::WithRawCallbackMethod_List<
        v1::Sessions::WithRawCallbackMethod_Fork<v1::Sessions::WithRawCallbackMethod_Checkpoint<
            v1::Sessions::WithRawCallbackMethod_Rewind<v1::Sessions::WithRawCallbackMethod_Export<
                v1::Sessions::WithRawCallbackMethod_Import<
                    v1::Sessions::WithRawCallbackMethod_Delete<v1::Sessions::Service>>>>>>>>>;

class SessionsService final : public SessionsBytes {
 public:
  explicit SessionsService(CallEnvironment* environment) : environment_(environment) {}

  grpc::ServerUnaryReactor* Create(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* context,
                                const grpc::ByteBuffer* request,
                                grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* request,
                                 grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Fork(grpc::CallbackServerContext* context,
                                 const grpc::ByteBuffer* request,
                                 grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Checkpoint(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Rewind(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Export(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* Import(grpc::CallbackServerContext* context,
                                                    grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Delete(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;

 private:
  CallEnvironment* const environment_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SESSIONS_SERVICE_H_
