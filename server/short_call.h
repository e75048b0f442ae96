// Calls that are answered at once, on the network's thread, and never enter the engine.

#ifndef MAMBAD_SERVER_SHORT_CALL_H_
#define MAMBAD_SERVER_SHORT_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/call_environment.h"
#include "server/message_reader.h"
#include "server/network_thread.h"
#include "server/status_details.h"
#include "server/wire_bytes.h"

namespace mambad::server {

class ShortCall final : public grpc::ServerUnaryReactor {
 public:
  ShortCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
            absl::string_view service, absl::string_view method)
      : context_(context), record_(environment, context, method, service) {}

  // For calls that are somebody's: counts it among its principal's. As CallRecord::Admit.
  absl::Status Admit() {
    return record_.Admit([](const absl::Status&) {});
  }
  const std::string& principal() const { return record_.principal(); }  // after Admit

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

// Reads a request and answers it here and now: `answer(request, call)` gives the response or why
// there is none.
template <typename Request, typename Answer>
grpc::ServerUnaryReactor* AnswerRequest(CallEnvironment* environment,
                                        grpc::CallbackServerContext* context,
                                        absl::string_view service, absl::string_view method,
                                        const grpc::ByteBuffer* bytes, grpc::ByteBuffer* response,
                                        Answer answer) {
  auto* const call = new ShortCall(environment, context, service, method);  // until OnDone
  grpc::ByteBuffer taken = TakeBytes(bytes);
  Request request;
  absl::Status status = CheckMetadata(context->client_metadata());
  if (status.ok()) status = ReadMessage(&taken, {}, &request);
  if (!status.ok()) return call->End(status);
  auto answered = answer(request, call);
  if (answered.ok()) *response = ToBytes(*answered);
  return call->End(answered.status());
}

// The same, where only the engine is asked, also while draining: `describe(engine)`.
template <typename Request, typename Describe>
grpc::ServerUnaryReactor* AnswerNow(CallEnvironment* environment,
                                    grpc::CallbackServerContext* context, absl::string_view service,
                                    absl::string_view method, const grpc::ByteBuffer* bytes,
                                    grpc::ByteBuffer* response, Describe describe) {
  using Response = decltype(describe(std::declval<const Engine&>()));
  return AnswerRequest<Request>(environment, context, service, method, bytes, response,
                                [&](const Request&, ShortCall*) -> absl::StatusOr<Response> {
                                  const Engine* engine = environment->engine.load();
                                  if (engine == nullptr) return environment->ReadyEngine().status();
                                  return describe(*engine);
                                });
}

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SHORT_CALL_H_
