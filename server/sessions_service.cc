#include "server/sessions_service.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "server/message_reader.h"
#include "server/session_streams.h"
#include "server/session_wire.h"
#include "server/status_details.h"
#include "server/text_conversion.h"
#include "server/unary_call.h"
#include "server/wire_bytes.h"

namespace mambad::server {
namespace {

// One call that is answered with one message. Entered from network threads, and from the engine's
// for its answer.
template <typename Wire>
class SessionCall final : public UnaryCall {
 public:
  // What the call asks for, of whom; `done` is called once, on any thread.
  using Answered = std::function<void(absl::StatusOr<grpc::ByteBuffer>)>;
  using Ask = std::function<absl::Status(const std::string& principal, Wire& wire, Engine& engine,
                                         Answered done)>;

  static grpc::ServerUnaryReactor* Start(CallEnvironment* environment,
                                         grpc::CallbackServerContext* context,
                                         absl::string_view method, const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response, Ask ask) {
    return Launch(std::shared_ptr<UnaryCall>(
                      new SessionCall(environment, context, method, response, std::move(ask))),
                  request);
  }

 private:
  SessionCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
              absl::string_view method, grpc::ByteBuffer* response, Ask ask)
      : UnaryCall(environment, context, response, method, kSessionsService), ask_(std::move(ask)) {}

  absl::Status Begin(grpc::ByteBuffer* request, int64_t) override {
    absl::StatusOr<Engine*> engine = environment_->ReadyEngine();
    if (!engine.ok()) return engine.status();
    Wire wire;
    if (absl::Status status = ReadMessage(request, {}, &wire); !status.ok()) return status;
    if ((*engine)->sessions() == nullptr)
      return absl::UnimplementedError("sessions are not served");
    const auto call = std::static_pointer_cast<SessionCall>(shared_from_this());
    return ask_(principal_, wire, **engine, [call](absl::StatusOr<grpc::ByteBuffer> answer) {
      if (answer.ok()) return call->Answer(*std::move(answer));
      call->End(WithFieldDetails(answer.status()));
    });
  }
  // What was asked for is done all the same.
  void Abandon(const absl::Status&) override {}
  void Record(const absl::Status& status) override {
    MutexLock lock(&mutex_);
    record_.End(status, 0);
  }

  const Ask ask_;
};

using Answered = std::function<void(absl::StatusOr<grpc::ByteBuffer>)>;

Sessions::Done AsSession(Answered done) {
  return [done = std::move(done)](absl::StatusOr<SessionInfo> info) {
    if (!info.ok()) return done(info.status());
    done(ToBytes(ToWire(*info)));
  };
}

}  // namespace

grpc::ServerUnaryReactor* SessionsService::Create(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request,
                                                  grpc::ByteBuffer* response) {
  return SessionCall<v1::CreateSessionRequest>::Start(
      environment_, context, "CreateSession", request, response,
      [](const std::string& principal, v1::CreateSessionRequest& wire, Engine& engine,
         Answered done) {
        const v1::TokenIds& ids = wire.token_ids();
        FieldViolations violations;
        CheckCount("token_ids.ids", ids.ids_size(), engine.model().context, &violations);
        if (violations.empty())
          violations.CheckIds("token_ids.ids", ids.ids(), engine.model().vocabulary);
        if (!violations.empty()) return violations.ToStatus();
        engine.sessions()->Create(principal, {ids.ids().begin(), ids.ids().end()},
                                  AsSession(std::move(done)));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* SessionsService::Get(grpc::CallbackServerContext* context,
                                               const grpc::ByteBuffer* request,
                                               grpc::ByteBuffer* response) {
  return SessionCall<v1::GetSessionRequest>::Start(
      environment_, context, "GetSession", request, response,
      [](const std::string& principal, v1::GetSessionRequest& wire, Engine& engine, Answered done) {
        AsSession(std::move(done))(engine.sessions()->Get(principal, wire.session_id()));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* SessionsService::List(grpc::CallbackServerContext* context,
                                                const grpc::ByteBuffer* request,
                                                grpc::ByteBuffer* response) {
  return SessionCall<v1::ListSessionsRequest>::Start(
      environment_, context, "ListSessions", request, response,
      [](const std::string& principal, v1::ListSessionsRequest&, Engine& engine, Answered done) {
        v1::ListSessionsResponse answer;
        for (const SessionInfo& info : engine.sessions()->List(principal))
          *answer.add_sessions() = ToWire(info);
        done(ToBytes(answer));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* SessionsService::Fork(grpc::CallbackServerContext* context,
                                                const grpc::ByteBuffer* request,
                                                grpc::ByteBuffer* response) {
  return SessionCall<v1::ForkSessionRequest>::Start(
      environment_, context, "ForkSession", request, response,
      [](const std::string& principal, v1::ForkSessionRequest& wire, Engine& engine,
         Answered done) {
        engine.sessions()->Fork(principal, wire.session_id(), AsSession(std::move(done)));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* SessionsService::Checkpoint(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  return SessionCall<v1::CheckpointSessionRequest>::Start(
      environment_, context, "CheckpointSession", request, response,
      [](const std::string& principal, v1::CheckpointSessionRequest& wire, Engine& engine,
         Answered done) {
        engine.sessions()->Checkpoint(principal, wire.session_id(), AsSession(std::move(done)));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* SessionsService::Rewind(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request,
                                                  grpc::ByteBuffer* response) {
  return SessionCall<v1::RewindSessionRequest>::Start(
      environment_, context, "RewindSession", request, response,
      [](const std::string& principal, v1::RewindSessionRequest& wire, Engine& engine,
         Answered done) {
        engine.sessions()->Rewind(principal, wire.session_id(), wire.position(),
                                  AsSession(std::move(done)));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* SessionsService::Delete(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request,
                                                  grpc::ByteBuffer* response) {
  return SessionCall<v1::DeleteSessionRequest>::Start(
      environment_, context, "DeleteSession", request, response,
      [](const std::string& principal, v1::DeleteSessionRequest& wire, Engine& engine,
         Answered done) {
        return engine.sessions()->Delete(principal, wire.session_id(), [done = std::move(done)] {
          done(ToBytes(v1::DeleteSessionResponse()));
        });
      });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* SessionsService::Export(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return ExportStream::Start(environment_, context, request);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* SessionsService::Import(
    grpc::CallbackServerContext* context, grpc::ByteBuffer* response) {
  return ImportStream::Start(environment_, context, response);
}

}  // namespace mambad::server
