#include "server/cli/chat_session.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/cli/answer_printer.h"
#include "server/cli/suggestions.h"
#include "server/cli/terminal_text.h"
#include "server/cli/whole_file.h"

namespace mambad::cli {
namespace {

constexpr char kPrompt[] = "> ";
constexpr size_t kMostBranches = 64;

std::string Microseconds(int64_t microseconds) {
  return ShortSeconds(static_cast<double>(microseconds) * 1e-6);
}

}  // namespace

ChatSession::ChatSession(const Connection& connection, const v1::GetModelInfoResponse& info,
                         v1::GenerateRequest request, std::optional<std::string> system,
                         Interrupts* interrupts, LineReader* reader)
    : connection_(connection),
      info_(info),
      request_(std::move(request)),
      system_(std::move(system)),
      interrupts_(interrupts),
      reader_(reader),
      memory_(connection) {}

void ChatSession::Note(const std::string& line) const { PrintNote(connection_.options(), line); }

int ChatSession::Run() {
  bool warned = false;  // that a second Ctrl-C leaves
  while (!quits_) {
    const TypedLine line = reader_->Read(kPrompt);
    if (line.kind == TypedLine::Kind::kEnd) break;
    if (line.kind == TypedLine::Kind::kInterrupted) {
      if (!connection_.options().edits_lines) return kExitInterrupted;
      if (!line.text.empty()) continue;  // what was typed is dropped
      if (warned) return kExitInterrupted;
      warned = true;
      Note("(Ctrl-C once more or Ctrl-D leaves; /help lists the commands)");
      continue;
    }
    warned = false;
    const absl::string_view text = absl::StripAsciiWhitespace(line.text);
    if (text.empty()) continue;
    if (line.text[0] == '/') {
      RunCommand(std::string(text));
    } else if (std::string problem = CheckUtf8("this line", line.text); !problem.empty()) {
      Note(problem);
      exit_code_ = kExitBadInput;
      quits_ = !connection_.options().edits_lines;
    } else {
      Ask(line.text);
    }
  }
  return connection_.options().edits_lines ? kExitGood : exit_code_;
}

const std::vector<ChatSession::ChatCommand>& ChatSession::Commands() {
  static const auto* commands = new std::vector<ChatCommand>{
      {"/help", "", "lists these commands", &ChatSession::Help},
      {"/system", "TEXT", "sets the system message; without TEXT shows it", &ChatSession::System},
      {"/retry", "", "asks the last question again, for another answer", &ChatSession::Retry},
      {"/undo", "", "takes back the last question and its answer", &ChatSession::Undo},
      {"/rewind", "N", "takes back all that came after question N; without N lists the questions",
       &ChatSession::Rewind},
      {"/fork", "N", "goes on in a branch of its own; with N goes back to branch N",
       &ChatSession::Fork},
      {"/reset", "", "begins anew; the system message stays", &ChatSession::Reset},
      {"/stats", "", "how long the last answer took, and how full the context is",
       &ChatSession::Stats},
      {"/save", "FILE", "writes the conversation as JSON, as --messages reads it",
       &ChatSession::Save},
      {"/quit", "", "leaves, as Ctrl-D does", &ChatSession::Quit},
  };
  return *commands;
}

void ChatSession::RunCommand(const std::string& line) {
  const size_t space = std::min(line.find_first_of(" \t"), line.size());
  std::string name = line.substr(0, space);
  const std::string argument(absl::StripAsciiWhitespace(line.substr(space)));
  if (name == "/exit") name = "/quit";
  std::vector<std::string> names;
  for (const ChatCommand& command : Commands()) {
    names.emplace_back(command.name);
    if (name != command.name) continue;
    if (command.argument[0] == '\0' && !argument.empty()) {
      return Note(absl::StrCat(name, " takes nothing behind it; \"", argument, "\" was given"));
    }
    return (this->*command.run)(argument);
  }
  Note(absl::StrCat("there is no command ", QuotePiece(name), DidYouMean(name, names),
                    " (/help lists them; a question may begin with a slash behind a space)"));
}

void ChatSession::Help(const std::string&) {
  for (const ChatCommand& command : Commands())
    Note(absl::StrFormat("  %-14s %s", absl::StrCat(command.name, " ", command.argument),
                         command.help));
  Note("  Ctrl-C stops an answer and keeps what came of it; Ctrl-D leaves");
}

void ChatSession::Quit(const std::string&) { quits_ = true; }

void ChatSession::Reset(const std::string&) {
  memory_.End(&branches_[branch_].session);
  branches_[branch_] = Branch();
  last_.reset();
  Note("(a new conversation)");
}

void ChatSession::System(const std::string& text) {
  if (text.empty()) {
    return Note(system_ ? absl::StrCat("system message: ", *system_)
                        : "no system message but the model's own; /system TEXT sets one");
  }
  if (std::string problem = CheckUtf8("/system", text); !problem.empty()) return Note(problem);
  system_ = text;
  Note("(holds from the next answer on)");
}

void ChatSession::Stats(const std::string&) {
  if (!last_) return Note("(no answer yet)");
  Note(StatusLine(*last_, request_, info_, 0));
  const v1::Timing& timing = last_->timing();
  Note(absl::StrCat("waited ", Microseconds(timing.queue_us()), ", read the conversation in ",
                    Microseconds(timing.prefill_us()), ", first token after ",
                    Microseconds(timing.first_token_us()), ", answered in ",
                    Microseconds(timing.total_us())));
  const int64_t used = last_->usage().prompt_tokens() + last_->usage().completion_tokens();
  Note(absl::StrCat(turns().size(), turns().size() == 1 ? " question" : " questions", ", ",
                    GroupDigits(used), " of ", GroupDigits(info_.limits().context()),
                    " tokens of context used"));
  const std::string& session = branches_[branch_].session;
  Note(absl::StrCat(GroupDigits(last_->usage().cached_tokens()), " of ",
                    GroupDigits(last_->usage().prompt_tokens()), " tokens had been read before",
                    session.empty() ? "; nothing is kept on the server"
                                    : absl::StrCat(", kept in session ", session)));
}

void ChatSession::Retry(const std::string&) {
  if (!unanswered() && turns().empty()) return Note("(nothing was asked yet)");
  std::string text;
  if (unanswered()) {
    text = *unanswered();
  } else {
    text = turns().back().user;
    turns().pop_back();
  }
  Note(absl::StrCat("> ", text));
  Ask(text);
}

void ChatSession::Undo(const std::string&) {
  if (unanswered()) {
    unanswered().reset();
    return Note("(the question without an answer is taken back)");
  }
  if (turns().empty()) return Note("(nothing to take back)");
  const std::string text = turns().back().user;
  turns().pop_back();
  Note(absl::StrCat("(taken back: ", QuotePiece(text), ")"));
}

void ChatSession::Rewind(const std::string& question) {
  if (question.empty()) {
    for (size_t i = 0; i < turns().size(); ++i)
      Note(absl::StrCat("  ", i + 1, "  ", QuotePiece(turns()[i].user)));
    return Note(turns().empty() ? "(nothing was asked yet)"
                                : "(/rewind N takes back all that came after question N)");
  }
  size_t kept = 0;
  if (!absl::SimpleAtoi(question, &kept) || kept > turns().size()) {
    return Note(
        absl::StrCat("/rewind: ", QuotePiece(question), " given, allowed 0 to ", turns().size()));
  }
  unanswered().reset();
  const size_t taken = turns().size() - kept;
  turns().resize(kept);
  Note(absl::StrCat("(taken back: ", taken, taken == 1 ? " question)" : " questions)"));
}

void ChatSession::Fork(const std::string& branch) {
  if (branch.empty()) {
    if (branches_.size() >= kMostBranches)
      return Note(absl::StrCat("there are ", branches_.size(), " branches, at most so many"));
    Branch copy = branches_[branch_];
    copy.session = memory_.Fork(copy.session);
    branches_.push_back(std::move(copy));
    branch_ = branches_.size() - 1;
    return NoteBranch();
  }
  size_t number = 0;
  if (!absl::SimpleAtoi(branch, &number) || number < 1 || number > branches_.size()) {
    return Note(
        absl::StrCat("/fork: ", QuotePiece(branch), " given, allowed 1 to ", branches_.size()));
  }
  branch_ = number - 1;
  NoteBranch();
}

void ChatSession::NoteBranch() const {
  Note(absl::StrCat("(branch ", branch_ + 1, " of ", branches_.size(), ", ", turns().size(),
                    turns().size() == 1 ? " question" : " questions",
                    " so far; /fork N goes to another)"));
}

void ChatSession::Save(const std::string& path) {
  if (path.empty()) return Note("/save needs a file's name");
  v1::Conversation conversation;
  FillConversation("", &conversation);
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  for (const v1::Message& message : conversation.messages())
    messages.push_back({{"role", message.role()}, {"content", message.content()}});
  const std::string text =
      messages.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  const std::string problem = WriteWholeFile(path, text, /*replaces=*/false);
  Note(problem.empty() ? absl::StrCat("(", messages.size(), " messages written to ", path, ")")
                       : problem);
}

void ChatSession::FillConversation(const std::string& text, v1::Conversation* conversation) const {
  const auto say = [&](const char* role, const std::string& content) {
    v1::Message* message = conversation->add_messages();
    message->set_role(role);
    message->set_content(content);
  };
  if (system_) say("system", *system_);
  for (const Turn& turn : turns()) {
    say("user", turn.user);
    say("assistant", turn.assistant);
  }
  if (!text.empty()) say("user", text);
}

void ChatSession::Ask(const std::string& text) {
  unanswered().reset();
  while (AskOnce(text)) {
  }
}

bool ChatSession::AskOnce(const std::string& text) {
  std::string& session = branches_[branch_].session;
  v1::GenerateRequest request = request_;
  FillConversation(text, request.mutable_conversation());
  AnswerPrinter printer(connection_.options(), request, info_);
  connection_.Refresh();
  memory_.GoOn(session, &request);
  grpc::ClientContext context;
  connection_.Prepare(&context);
  auto reader = connection_.stub()->Generate(&context, request);
  CancelOnInterrupt watch(interrupts_, &context);
  v1::GenerateResponse message;
  std::string kept = session;
  while (reader->Read(&message)) {
    if (message.has_completion()) {
      memory_.Learn(message.completion(), &kept);
      // Where it is kept is no news to a person; /stats tells.
      if (!connection_.options().json) message.mutable_completion()->clear_session_id();
    }
    printer.Add(message);
  }
  const grpc::Status status = reader->Finish();
  const bool stopped = watch.Stop() && status.error_code() == grpc::StatusCode::CANCELLED;
  if (!stopped && !printer.begun() && memory_.GivesUp(status, &session)) return true;
  printer.EndLine();
  const std::string answer = printer.first().text();
  if (status.ok() || (stopped && !answer.empty())) {
    turns().push_back({text, answer});
  } else {
    unanswered() = text;
  }
  if (status.ok()) {
    last_ = printer.first().completion();
    session = kept;
    const int64_t used = last_->usage().prompt_tokens() + last_->usage().completion_tokens();
    if (last_->finish_reason() == v1::LENGTH && used >= info_.limits().context()) {
      Note(
          absl::StrCat("(cut off: the context of ", GroupDigits(info_.limits().context()),
                       " tokens is full; /undo takes back the last question, /reset begins anew)"));
    }
  } else if (stopped) {
    Note(answer.empty() ? "(stopped; /retry asks again)"
                        : "(stopped; what came of the answer is kept)");
  } else {
    ReportFailure(status, printer.begun());
  }
  return false;
}

void ChatSession::ReportFailure(const grpc::Status& status, bool begun) {
  const InputNames names{.conversation = "the conversation"};
  const std::vector<FieldFault> faults = FieldFaults(status, names);
  exit_code_ = kExitFailed;
  quits_ = !connection_.options().edits_lines;
  const bool too_long = faults.size() == 1 && faults[0].field == "conversation" &&
                        (absl::StrContains(faults[0].description, " tokens given") ||
                         absl::StrContains(faults[0].description, " bytes given"));
  connection_.Report(status, names, begun);
  if (quits_) return;
  Note(too_long ? "(the conversation no longer fits: /undo takes back the last answered question, "
                  "/reset begins anew)"
                : "(the question is not part of the conversation; /retry asks it again)");
}

}  // namespace mambad::cli
