#include "server/cli/chat_memory.h"

#include <chrono>

#include "absl/strings/match.h"

namespace mambad::cli {
namespace {

// What marks may take on the server: a state with keys and values of a long text is large, and its
// text is read again sooner than that is written.
constexpr int64_t kMostStateBytes = int64_t{256} << 20;
// Nobody waits longer for what only helps.
constexpr std::chrono::seconds kPatience{5};

}  // namespace

ChatMemory::ChatMemory(const Connection& connection)
    : connection_(connection), stub_(v1::Sessions::NewStub(connection.channel())) {}

ChatMemory::~ChatMemory() {
  for (const std::string& id : sessions_) {
    v1::DeleteSessionResponse answer;
    const grpc::Status status =
        Call<v1::DeleteSessionRequest>(&v1::Sessions::Stub::Delete, id, &answer);
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) return;
  }
}

template <typename Request, typename Answer>
grpc::Status ChatMemory::Call(grpc::Status (v1::Sessions::Stub::*method)(grpc::ClientContext*,
                                                                         const Request&, Answer*),
                              const std::string& session, Answer* answer) const {
  grpc::ClientContext context;
  connection_.Prepare(&context);
  const auto late = std::chrono::system_clock::now() + kPatience;
  if (context.deadline() > late) context.set_deadline(late);
  Request request;
  request.set_session_id(session);
  return (stub_.get()->*method)(&context, request, answer);
}

void ChatMemory::GoOn(const std::string& session, v1::GenerateRequest* request) {
  if (!served_) return;
  request->set_keep_session(true);
  if (session.empty()) return;
  request->set_session_id(session);
  if (!marks_) return;
  v1::Session marked;
  const grpc::Status status =
      Call<v1::CheckpointSessionRequest>(&v1::Sessions::Stub::Checkpoint, session, &marked);
  marks_ = status.ok() && marked.state_bytes() < kMostStateBytes;
}

bool ChatMemory::GivesUp(const grpc::Status& status, std::string* session) {
  if (!served_) return false;
  switch (status.error_code()) {
    case grpc::StatusCode::NOT_FOUND:            // it is over, or the server began anew
    case grpc::StatusCode::ABORTED:              // a turn that was stopped is not over yet
    case grpc::StatusCode::FAILED_PRECONDITION:  // the template writes what was said another way
      if (session->empty()) return false;
      End(session);
      return true;
    case grpc::StatusCode::UNIMPLEMENTED:
    case grpc::StatusCode::PERMISSION_DENIED:
      served_ = false;
      break;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:  // too many of them, or a full queue
      if (!absl::StrContains(status.error_message(), "session")) return false;
      served_ = false;
      break;
    default:
      return false;
  }
  End(session);
  return true;
}

void ChatMemory::Learn(const v1::Completion& completion, std::string* session) {
  if (completion.session_id().empty()) return;
  *session = completion.session_id();
  sessions_.insert(*session);
}

std::string ChatMemory::Fork(const std::string& session) {
  v1::Session fork;
  if (session.empty() || !served_) return "";
  if (!Call<v1::ForkSessionRequest>(&v1::Sessions::Stub::Fork, session, &fork).ok()) return "";
  sessions_.insert(fork.session_id());
  return fork.session_id();
}

void ChatMemory::End(std::string* session) {
  if (session->empty()) return;
  v1::DeleteSessionResponse answer;
  Call<v1::DeleteSessionRequest>(&v1::Sessions::Stub::Delete, *session, &answer);
  sessions_.erase(*session);
  session->clear();
}

}  // namespace mambad::cli
