// mambactl score, tokenize and detokenize.

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/input_flags.h"
#include "server/cli/json_output.h"
#include "server/cli/number_options.h"
#include "server/cli/terminal_text.h"
#include "server/cli/token_table.h"

namespace mambad::cli {
namespace {

struct ScoreFlags {
  InputFlags input;
  std::optional<int64_t> from;
  std::optional<int32_t> alternatives;
};

struct TokenizeFlags {
  InputFlags input;
  bool plain = false, pieces = false;
};

struct DetokenizeFlags {
  std::optional<std::string> token_ids;
  bool keep_special = false;
};

// The input of a command that cannot do without. Empty, or what is wrong.
std::string ReadInput(const InputFlags& flags, Input* input) {
  std::string problem = flags.Read(input);
  if (problem.empty() && input->kind == Input::Kind::kNone)
    problem = absl::StrCat("give ", input->names.choices);
  return problem;
}

int Score(const ClientOptions& options, const ScoreFlags& flags) {
  Input input;
  if (std::string problem = ReadInput(flags.input, &input); !problem.empty())
    return ReportBadInput(problem);
  v1::ScoreRequest request;
  if (input.kind == Input::Kind::kText) {
    request.set_text(std::move(input.text));
  } else {
    request.mutable_token_ids()->mutable_ids()->Add(input.token_ids.begin(), input.token_ids.end());
  }
  if (flags.from) request.set_from(*flags.from);
  if (flags.alternatives) request.set_alternatives(*flags.alternatives);
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::ScoreResponse response;
  const grpc::Status status = connection.stub()->Score(&context, request, &response);
  if (!status.ok()) return connection.Report(status, input.names);
  if (options.json) {
    PrintJson(response);
    return kExitGood;
  }
  std::printf("%stotal log-probability %.5f of %d tokens\n",
              TokenTable(response.from(), response.logprobs()).c_str(), response.total_logprob(),
              response.logprobs_size());
  return kExitGood;
}

void PrintPieces(const v1::TokenizeResponse& response) {
  std::printf("%8s %8s  piece\n", "position", "id");
  for (int i = 0; i < response.token_ids_size(); ++i) {
    const std::string piece = i < response.pieces_size() ? QuotePiece(response.pieces(i)) : "";
    std::printf("%8d %8d  %s\n", i, response.token_ids(i), piece.c_str());
  }
}

int Tokenize(const ClientOptions& options, const TokenizeFlags& flags) {
  Input input;
  if (std::string problem = ReadInput(flags.input, &input); !problem.empty())
    return ReportBadInput(problem);
  v1::TokenizeRequest request;
  if (input.kind == Input::Kind::kText) {
    request.set_text(std::move(input.text));
  } else {
    *request.mutable_conversation() = std::move(input.conversation);
    if (flags.plain) return ReportBadInput("--plain goes with a text, not with a conversation");
  }
  if (flags.plain) request.set_add_special_tokens(false);
  if (flags.plain) request.set_parse_special(false);
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::TokenizeResponse response;
  const grpc::Status status = connection.stub()->Tokenize(&context, request, &response);
  if (!status.ok()) return connection.Report(status, input.names);
  if (options.json) {
    PrintJson(response);
  } else if (flags.pieces) {
    PrintPieces(response);
  } else {
    for (int i = 0; i < response.token_ids_size(); ++i)
      std::printf(i == 0 ? "%d" : ",%d", response.token_ids(i));
    std::printf("\n");
  }
  return kExitGood;
}

int Detokenize(const ClientOptions& options, const DetokenizeFlags& flags) {
  if (!flags.token_ids) return ReportBadInput("give --token-ids");
  v1::DetokenizeRequest request;
  std::vector<int32_t> ids;
  if (!ParseTokenIds(*flags.token_ids, &ids)) {
    return ReportBadInput(
        absl::StrCat("--token-ids: \"", *flags.token_ids, "\": expected numbers as in 1,2,3"));
  }
  request.mutable_token_ids()->Add(ids.begin(), ids.end());
  if (flags.keep_special) request.set_skip_special(false);
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::DetokenizeResponse response;
  const grpc::Status status = connection.stub()->Detokenize(&context, request, &response);
  if (!status.ok()) return connection.Report(status, {});
  if (options.json) {
    PrintJson(response);
  } else {
    std::printf("%s\n", response.text().c_str());
  }
  return kExitGood;
}

}  // namespace

void AddScoreCommand(CLI::App* app, const ClientOptions* options, Command* chosen) {
  CLI::App* command =
      app->add_subcommand("score", "How likely the model finds a given text, token by token");
  auto flags = std::make_shared<ScoreFlags>();
  flags->input.Register(command, {.token_ids = true, .conversation = false});
  AddNumber(command, "--from", &flags->from,
            "Position of the first token that is scored; the first token of all, at 0, cannot be "
            "(default 1)");
  AddNumber(command, "--alternatives", &flags->alternatives,
            "The most likely tokens beside each, so many (default 0)");
  command->footer("  mambactl score --prompt 'The sky is blue' --alternatives 2");
  command->callback([=] { *chosen = [=] { return Score(*options, *flags); }; });
}

void AddTokenizeCommands(CLI::App* app, const ClientOptions* options, Command* chosen) {
  CLI::App* tokenize = app->add_subcommand(
      "tokenize", "Text or a conversation to token ids, as the model reads them");
  auto flags = std::make_shared<TokenizeFlags>();
  flags->input.Register(tokenize, {.token_ids = false, .conversation = true});
  tokenize->add_flag("--plain", flags->plain,
                     "With a text: no special tokens, neither added nor read out of the text");
  tokenize->add_flag("--pieces", flags->pieces, "A table with the piece of text of each token");
  tokenize->callback([=] { *chosen = [=] { return Tokenize(*options, *flags); }; });

  CLI::App* detokenize = app->add_subcommand("detokenize", "Token ids to text");
  auto back = std::make_shared<DetokenizeFlags>();
  detokenize->add_option("--token-ids", back->token_ids, "Token ids: 1,2,3")->type_name("IDS");
  detokenize->add_flag("--keep-special", back->keep_special,
                       "Show special tokens too, by their names");
  detokenize->callback([=] { *chosen = [=] { return Detokenize(*options, *back); }; });
}

}  // namespace mambad::cli
