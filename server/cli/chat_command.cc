// mambactl chat: a conversation at the terminal, or over a pipe a line at a time.

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/cli/answer_printer.h"
#include "server/cli/chat_session.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/generation_flags.h"
#include "server/cli/interrupts.h"
#include "server/cli/line_reader.h"
#include "server/cli/terminal_text.h"

namespace mambad::cli {
namespace {

struct ChatFlags {
  GenerationFlags generation;
  std::optional<std::string> system;
};

std::string NameOf(const std::string& path) {
  const size_t end = path.find_last_not_of('/');
  if (end == std::string::npos) return path;
  const size_t slash = path.find_last_of('/', end);
  return path.substr(slash == std::string::npos ? 0 : slash + 1, end - (slash + 1) + 1);
}

void PrintGreeting(const ClientOptions& options, const v1::GetModelInfoResponse& info) {
  PrintNote(options, absl::StrCat("chat with ", NameOf(info.model().path()), ", context of ",
                                  GroupDigits(info.limits().context()), " tokens"));
  if (options.hints) {
    PrintNote(options, "Ctrl-C stops an answer, /help lists the commands, /quit or Ctrl-D leaves");
  }
}

int Chat(const ClientOptions& options, const ChatFlags& flags) {
  v1::GenerateRequest request;
  std::string problem = flags.generation.Fill(&request);
  if (problem.empty() && flags.system) problem = CheckUtf8("--system", *flags.system);
  if (!problem.empty()) return ReportBadInput(problem);
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  v1::GetModelInfoResponse info;
  grpc::ClientContext context;
  connection.Prepare(&context);
  const grpc::Status status = connection.stub()->GetModelInfo(&context, {}, &info);
  if (!status.ok()) return connection.Report(status, {});
  if (!info.has_chat_template()) {
    const grpc::Status lacking(
        grpc::StatusCode::FAILED_PRECONDITION,
        absl::StrCat(info.model().path(),
                     " has no chat template and cannot chat: mambactl generate --prompt TEXT goes "
                     "on from a text"));
    return connection.Report(lacking, {});
  }
  if (!options.json) PrintGreeting(options, info);
  Interrupts interrupts;
  const std::unique_ptr<LineReader> reader = MakeLineReader(options.edits_lines, &interrupts);
  ChatSession session(connection, info, std::move(request), flags.system, &interrupts,
                      reader.get());
  return session.Run();
}

}  // namespace

void AddChatCommand(CLI::App* app, const ClientOptions* options, Command* chosen) {
  CLI::App* command = app->add_subcommand(
      "chat", "Talk with a chat model; it remembers what was said until you leave");
  auto flags = std::make_shared<ChatFlags>();
  command->add_option("--system", flags->system, "The system message: how the model is to answer")
      ->type_name("TEXT");
  flags->generation.Register(command, /*one_answer=*/true);
  command->footer(
      "At a terminal lines can be edited, and the arrow keys bring back earlier ones; /help lists\n"
      "the commands of the conversation. From a pipe every line is a question:\n\n"
      "  printf 'My name is Ada.\\nWhat is my name?\\n' | mambactl chat --temperature 0");
  command->callback([=] { *chosen = [=] { return Chat(*options, *flags); }; });
}

}  // namespace mambad::cli
