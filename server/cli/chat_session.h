// A conversation with the model: what was said, in branches, and the commands by which a person
// steers it.

#ifndef MAMBAD_SERVER_CLI_CHAT_SESSION_H_
#define MAMBAD_SERVER_CLI_CHAT_SESSION_H_

#include <optional>
#include <string>
#include <vector>

#include "mambad/v1/generation.pb.h"
#include "server/cli/chat_memory.h"
#include "server/cli/connection.h"
#include "server/cli/interrupts.h"
#include "server/cli/line_reader.h"

namespace mambad::cli {

class ChatSession {
 public:
  // `request`: without input, what every turn asks for. All but it outlive the session.
  ChatSession(const Connection& connection, const v1::GetModelInfoResponse& info,
              v1::GenerateRequest request, std::optional<std::string> system,
              Interrupts* interrupts, LineReader* reader);

  // Until the input ends, /quit, or Ctrl-C twice at an empty line: the exit code. Where no person
  // is there to go on, the first turn that fails ends it.
  int Run();

 private:
  struct Turn {
    std::string user, assistant;
  };
  // A conversation that goes its own way; all but the one at hand stand still.
  struct Branch {
    std::vector<Turn> turns;
    std::optional<std::string> unanswered;  // the last words of the user, when their turn failed
    std::string session;                    // on the server; empty: none
  };
  struct ChatCommand {
    const char* name;
    const char* argument;  // as help shows it; empty: none
    const char* help;
    void (ChatSession::*run)(const std::string& argument);
  };
  static const std::vector<ChatCommand>& Commands();

  void RunCommand(const std::string& line);
  void Help(const std::string&);
  void Quit(const std::string&);
  void Reset(const std::string&);
  void System(const std::string& text);
  void Stats(const std::string&);
  void Retry(const std::string&);
  void Undo(const std::string&);
  void Rewind(const std::string& question);
  void Fork(const std::string& branch);
  void Save(const std::string& path);

  void NoteBranch() const;
  std::vector<Turn>& turns() { return branches_[branch_].turns; }
  const std::vector<Turn>& turns() const { return branches_[branch_].turns; }
  std::optional<std::string>& unanswered() { return branches_[branch_].unanswered; }

  // Asks, prints the answer and keeps the turn; a turn that failed can be asked for again.
  void Ask(const std::string& text);
  // One call. True: it is to be made again, as it failed for its session alone.
  bool AskOnce(const std::string& text);
  void ReportFailure(const grpc::Status& status, bool begun);
  // System message and all turns, with `text` as the user's next words.
  void FillConversation(const std::string& text, v1::Conversation* conversation) const;
  void Note(const std::string& line) const;

  const Connection& connection_;
  const v1::GetModelInfoResponse& info_;
  v1::GenerateRequest request_;
  std::optional<std::string> system_;
  Interrupts* const interrupts_;
  LineReader* const reader_;
  ChatMemory memory_;
  std::vector<Branch> branches_ = std::vector<Branch>(1);
  size_t branch_ = 0;                   // the one at hand
  std::optional<v1::Completion> last_;  // of the last whole answer
  bool quits_ = false;
  int exit_code_ = kExitGood;
};

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_CHAT_SESSION_H_
