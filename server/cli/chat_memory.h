// The sessions on the server in which a conversation is kept, so that what was said is not read
// again with each turn. A help and no more: every turn carries the whole conversation, and where a
// session is lost, is of another text or is not served, the server reads that.

#ifndef MAMBAD_SERVER_CLI_CHAT_MEMORY_H_
#define MAMBAD_SERVER_CLI_CHAT_MEMORY_H_

#include <memory>
#include <set>
#include <string>

#include "mambad/v1/generation.pb.h"
#include "mambad/v1/session.grpc.pb.h"
#include "server/cli/connection.h"

namespace mambad::cli {

class ChatMemory {
 public:
  explicit ChatMemory(const Connection& connection);  // outlives it
  // Its sessions end, where the server can be reached.
  ~ChatMemory();
  ChatMemory(const ChatMemory&) = delete;
  ChatMemory& operator=(const ChatMemory&) = delete;

  // In these, `session` is the name of a branch's session; empty: none yet.

  // Before a turn: the request goes on with the session, or makes one. Where it stands is marked
  // first, so that the turn can be taken back without reading what came before it.
  void GoOn(const std::string& session, v1::GenerateRequest* request);
  // After a turn that failed before anything came of it. True: it was for the session, which is
  // given up; the turn is to be asked for again.
  bool GivesUp(const grpc::Status& status, std::string* session);
  // At the end of an answer.
  void Learn(const v1::Completion& completion, std::string* session);
  // Another session like this one; empty: the new branch begins without.
  std::string Fork(const std::string& session);
  void End(std::string* session);

 private:
  template <typename Request, typename Answer>
  grpc::Status Call(grpc::Status (v1::Sessions::Stub::*method)(grpc::ClientContext*, const Request&,
                                                               Answer*),
                    const std::string& session, Answer* answer) const;

  const Connection& connection_;
  const std::unique_ptr<v1::Sessions::Stub> stub_;
  bool served_ = true, marks_ = true;
  std::set<std::string> sessions_;  // that are there
};

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_CHAT_MEMORY_H_
