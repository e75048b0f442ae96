// mambactl generate and chat: answers that stream to the terminal.

#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/cli/client.h"

namespace mambad::cli {
namespace {

// Tokens and speed, for people, on standard error.
void PrintSummary(const v1::GenerateResponse& message) {
  const v1::Completion& completion = message.completion();
  const double seconds = static_cast<double>(completion.timing().total_us()) * 1e-6;
  std::string line = absl::StrCat("[", v1::FinishReason_Name(completion.finish_reason()), ", ",
                                  completion.usage().prompt_tokens(), " + ",
                                  completion.usage().completion_tokens(), " tokens");
  if (seconds > 0) {
    absl::StrAppend(
        &line, ", ",
        static_cast<int64_t>(double(completion.usage().completion_tokens()) / seconds + 0.5),
        " tokens/s");
  }
  const v1::SpeculationReport& speculation = completion.speculation();
  if (speculation.drafted() > 0) {
    absl::StrAppend(&line, ", ", speculation.accepted(), " of ", speculation.drafted(),
                    " drafts accepted");
  }
  std::fprintf(stderr, "%s]\n", line.c_str());
}

void PrintSample(const v1::GenerateResponse& sample, bool numbered) {
  if (numbered) std::printf("--- %d\n", sample.index());
  std::printf("%s\n", sample.text().c_str());
  PrintSummary(sample);
}

int GenerateOnce(const Connection& connection, const v1::GenerateRequest& request) {
  auto stub = v1::Generation::NewStub(connection.Open());
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::GenerateResponse response;
  const grpc::Status status = stub->GenerateOnce(&context, request, &response);
  if (!status.ok()) return ReportFailure(connection, status);
  if (connection.json) {
    PrintJson(response);
    return kExitGood;
  }
  const bool numbered = response.further_samples_size() > 0;
  PrintSample(response, numbered);
  for (const v1::GenerateResponse& sample : response.further_samples())
    PrintSample(sample, numbered);
  return kExitGood;
}

// Texts of several samples come interleaved: they are gathered and printed as each ends.
int GenerateStreaming(const Connection& connection, const v1::GenerateRequest& request,
                      std::string* answer) {
  auto stub = v1::Generation::NewStub(connection.Open());
  grpc::ClientContext context;
  connection.Prepare(&context);
  auto reader = stub->Generate(&context, request);
  const bool several = request.output().n() > 1;
  std::vector<v1::GenerateResponse> samples(
      static_cast<size_t>(several ? request.output().n() : 1));
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    if (connection.json) {
      PrintJson(message);
    } else if (several) {
      v1::GenerateResponse& sample =
          samples.at(static_cast<size_t>(message.index()) % samples.size());
      sample.mutable_text()->append(message.text());
      sample.set_index(message.index());
      if (message.has_completion()) {
        *sample.mutable_completion() = message.completion();
        PrintSample(sample, true);
      }
    } else {
      // A model without a tokenizer answers in ids.
      std::string piece = message.text();
      if (piece.empty() && request.has_token_ids()) {
        for (int32_t id : message.token_ids()) absl::StrAppend(&piece, id, " ");
      }
      std::fputs(piece.c_str(), stdout);
      std::fflush(stdout);
      if (message.has_completion()) {
        std::printf("\n");
        std::fflush(stdout);
        PrintSummary(message);
      }
    }
    if (answer != nullptr) answer->append(message.text());
  }
  const grpc::Status status = reader->Finish();
  return status.ok() ? kExitGood : ReportFailure(connection, status);
}

int Chat(const Connection& connection, const GenerationFlags& flags, const std::string& system) {
  v1::GenerateRequest request;
  if (std::string problem = flags.Fill(&request); !problem.empty()) return ReportBadInput(problem);
  const auto say = [&](const char* role, const std::string& content) {
    v1::Message* message = request.mutable_conversation()->add_messages();
    message->set_role(role);
    message->set_content(content);
  };
  if (!system.empty()) say("system", system);
  std::string line;
  while (std::fputs("> ", stderr), std::getline(std::cin, line)) {
    if (line.empty()) continue;
    say("user", line);
    std::string answer;
    const int result = GenerateStreaming(connection, request, &answer);
    if (result != kExitGood) return result;
    say("assistant", answer);
  }
  return kExitGood;
}

}  // namespace

void AddGenerateCommand(CLI::App* app, const Connection* connection, int* result) {
  CLI::App* command = app->add_subcommand("generate", "Generate text; streams to the terminal");
  auto flags = std::make_shared<GenerationFlags>();
  auto once = std::make_shared<bool>(false);
  flags->Register(command, /*with_input=*/true);
  command->add_flag("--once", *once, "Ask for the whole answer at once");
  command->callback([=] {
    v1::GenerateRequest request;
    const std::string problem = flags->Fill(&request);
    *result = !problem.empty() ? ReportBadInput(problem)
              : *once          ? GenerateOnce(*connection, request)
                               : GenerateStreaming(*connection, request, nullptr);
  });
}

void AddChatCommand(CLI::App* app, const Connection* connection, int* result) {
  CLI::App* command =
      app->add_subcommand("chat", "Talk with the model, a line at a time; ends with the input");
  auto flags = std::make_shared<GenerationFlags>();
  auto system = std::make_shared<std::string>();
  flags->Register(command, /*with_input=*/false);
  command->add_option("--system", *system, "The system message");
  command->callback([=] { *result = Chat(*connection, *flags, *system); });
}

}  // namespace mambad::cli
