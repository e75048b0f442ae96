// mambactl score, tokenize and detokenize.

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/cli/client.h"

namespace mambad::cli {
namespace {

struct TextFlags {
  std::optional<std::string> text, token_ids, messages;
  std::optional<int64_t> from;
  std::optional<int> alternatives;
  bool plain = false;
};

int Score(const Connection& connection, const TextFlags& flags) {
  v1::ScoreRequest request;
  std::vector<int32_t> ids;
  if (flags.text.has_value() == flags.token_ids.has_value())
    return ReportBadInput("give --text or --token-ids");
  if (flags.text) {
    request.set_text(*flags.text);
  } else if (!ParseTokenIds(*flags.token_ids, &ids)) {
    return ReportBadInput("--token-ids: expected numbers as in 1,2,3");
  } else {
    request.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  }
  if (flags.from) request.set_from(*flags.from);
  if (flags.alternatives) request.set_alternatives(*flags.alternatives);
  auto stub = v1::Generation::NewStub(connection.Open());
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::ScoreResponse response;
  const grpc::Status status = stub->Score(&context, request, &response);
  if (!status.ok()) return ReportFailure(connection, status);
  if (connection.json) {
    PrintJson(response);
    return kExitGood;
  }
  std::printf("position       id    logprob\n");
  for (int i = 0; i < response.logprobs_size(); ++i) {
    const v1::TokenLogprob& logprob = response.logprobs(i);
    std::printf("%8ld %8d %10.5f", static_cast<long>(response.from() + i), logprob.id(),
                logprob.logprob());
    for (const auto& alternative : logprob.alternatives()) {
      std::printf("   %d %.5f", alternative.id(), alternative.logprob());
    }
    std::printf("\n");
  }
  std::printf("total             %10.5f\n", response.total_logprob());
  return kExitGood;
}

int Tokenize(const Connection& connection, const TextFlags& flags) {
  v1::TokenizeRequest request;
  if (flags.text.has_value() == flags.messages.has_value())
    return ReportBadInput("give --text or --messages");
  if (flags.text) {
    request.set_text(*flags.text);
    if (flags.plain) request.set_add_special_tokens(false);
    if (flags.plain) request.set_parse_special(false);
  } else if (std::string problem = ParseMessages(*flags.messages, request.mutable_conversation());
             !problem.empty()) {
    return ReportBadInput(problem);
  }
  auto stub = v1::Generation::NewStub(connection.Open());
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::TokenizeResponse response;
  const grpc::Status status = stub->Tokenize(&context, request, &response);
  if (!status.ok()) return ReportFailure(connection, status);
  if (connection.json) {
    PrintJson(response);
    return kExitGood;
  }
  for (int i = 0; i < response.token_ids_size(); ++i)
    std::printf(i == 0 ? "%d" : ",%d", response.token_ids(i));
  std::printf("\n");
  return kExitGood;
}

int Detokenize(const Connection& connection, const TextFlags& flags) {
  v1::DetokenizeRequest request;
  std::vector<int32_t> ids;
  if (!ParseTokenIds(flags.token_ids.value_or(""), &ids)) {
    return ReportBadInput("--token-ids: expected numbers as in 1,2,3");
  }
  request.mutable_token_ids()->Add(ids.begin(), ids.end());
  if (flags.plain) request.set_skip_special(false);
  auto stub = v1::Generation::NewStub(connection.Open());
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::DetokenizeResponse response;
  const grpc::Status status = stub->Detokenize(&context, request, &response);
  if (!status.ok()) return ReportFailure(connection, status);
  if (connection.json) {
    PrintJson(response);
  } else {
    std::printf("%s\n", response.text().c_str());
  }
  return kExitGood;
}

}  // namespace

void AddScoreCommand(CLI::App* app, const Connection* connection, int* result) {
  CLI::App* command = app->add_subcommand("score", "Log-probabilities of given tokens");
  auto flags = std::make_shared<TextFlags>();
  command->add_option("--text,--prompt", flags->text, "Text to score");
  command->add_option("--token-ids", flags->token_ids, "Token ids to score: 1,2,3");
  command->add_option("--from", flags->from, "Position of the first scored token (default 1)");
  command->add_option("--alternatives", flags->alternatives,
                      "Most likely tokens at each position (default 0)");
  command->callback([=] { *result = Score(*connection, *flags); });
}

void AddTokenizeCommands(CLI::App* app, const Connection* connection, int* result) {
  CLI::App* tokenize = app->add_subcommand("tokenize", "Text or messages to token ids");
  auto flags = std::make_shared<TextFlags>();
  tokenize->add_option("--text,--prompt", flags->text, "Text");
  tokenize->add_option("--messages", flags->messages, "JSON list of {role, content}, as text");
  tokenize->add_flag("--plain", flags->plain, "No special tokens, neither added nor read");
  tokenize->callback([=] { *result = Tokenize(*connection, *flags); });

  CLI::App* detokenize = app->add_subcommand("detokenize", "Token ids to text");
  auto back = std::make_shared<TextFlags>();
  detokenize->add_option("--token-ids", back->token_ids, "Token ids: 1,2,3")->required();
  detokenize->add_flag("--keep-special", back->plain, "Show special tokens too");
  detokenize->callback([=] { *result = Detokenize(*connection, *back); });
}

}  // namespace mambad::cli
