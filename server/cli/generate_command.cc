// mambactl generate: one prompt, one answer or several.

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/cli/answer_printer.h"
#include "server/cli/answer_record.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/generation_flags.h"
#include "server/cli/input_flags.h"
#include "server/cli/whole_file.h"

namespace mambad::cli {
namespace {

struct GenerateFlags {
  InputFlags input;
  GenerationFlags generation;
  bool once = false;
  std::string receipt;  // a file; empty: none
};

// For the person at a terminal who sees a chat model ramble on.
void HintAtChat(const ClientOptions& options, const v1::GenerateRequest& request,
                const v1::GetModelInfoResponse& info) {
  if (!options.hints || options.json || !request.has_text() || !info.has_chat_template()) return;
  PrintNote(options,
            "(this is a chat model, and --prompt goes on from the text as it stands: --user TEXT "
            "asks it a question, mambactl chat talks with it)");
}

int Ask(const Connection& connection, const v1::GenerateRequest& request, const InputNames& names,
        const GenerateFlags& flags) {
  v1::GetModelInfoResponse info;
  // What is needed to show the answer to people, or to write down how it was drawn.
  if (!connection.options().json || !flags.receipt.empty()) {
    grpc::ClientContext context;
    connection.Prepare(&context);
    const grpc::Status status = connection.stub()->GetModelInfo(&context, {}, &info);
    if (!status.ok()) return connection.Report(status, names);
    HintAtChat(connection.options(), request, info);
  }
  AnswerPrinter printer(connection.options(), request, info);
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::GenerateResponse message;
  grpc::Status status;
  if (flags.once) {
    status = connection.stub()->GenerateOnce(&context, request, &message);
    if (status.ok()) printer.AddWhole(message);
  } else {
    auto reader = connection.stub()->Generate(&context, request);
    while (reader->Read(&message)) printer.Add(message);
    status = reader->Finish();
  }
  if (!status.ok()) {
    printer.EndLine();
    return connection.Report(status, names, printer.begun());
  }
  if (flags.receipt.empty()) return kExitGood;
  const AnswerRecord record = MakeRecord(request, info.default_sampling(), printer.samples());
  const std::string problem =
      WriteWholeFile(flags.receipt, RecordJson(record) + "\n", /*replaces=*/true);
  if (problem.empty()) return kExitGood;
  std::fprintf(stderr, "mambactl: %s\n", problem.c_str());
  return kExitFailed;
}

int Generate(const ClientOptions& options, const GenerateFlags& flags) {
  v1::GenerateRequest request;
  Input input;
  std::string problem = flags.input.Read(&input);
  if (problem.empty()) problem = flags.generation.Fill(&request);
  if (problem.empty() && input.kind == Input::Kind::kNone && request.session_id().empty())
    problem = absl::StrCat("give ", input.names.choices);
  if (!problem.empty()) return ReportBadInput(problem);
  SetInput(input, &request);
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  return Ask(connection, request, input.names, flags);
}

}  // namespace

void AddGenerateCommand(CLI::App* app, const ClientOptions* options, Command* chosen) {
  CLI::App* command = app->add_subcommand(
      "generate", "Answer a prompt: the text streams to standard output as it is made");
  auto flags = std::make_shared<GenerateFlags>();
  flags->input.Register(command, {});
  flags->generation.Register(command, /*one_answer=*/false);
  command->add_flag("--once", flags->once, "Ask for the whole answer at once, without a stream")
      ->group("How it is served");
  command
      ->add_option("--receipt", flags->receipt,
                   "Write request and answer to this file, from which mambactl replay makes and "
                   "compares it again")
      ->type_name("FILE")
      ->group("What is answered");
  command->footer(
      "The line in brackets and the tables go to standard error, so that the text can be piped.\n\n"
      "  mambactl generate --prompt 'Once upon a time' --max-tokens 100\n"
      "  mambactl generate --user 'Why is the sky blue?' --temperature 0.7 --seed 1\n"
      "  git diff | mambactl generate --system 'Describe this change.' --user -");
  command->callback([=] { *chosen = [=] { return Generate(*options, *flags); }; });
}

}  // namespace mambad::cli
