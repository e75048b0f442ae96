// mambactl replay: an answer that was recorded, made again and compared.

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/cli/answer_record.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/terminal_text.h"
#include "server/cli/whole_file.h"

namespace mambad::cli {
namespace {

// "345 " the"", "the end".
std::string NameToken(const Connection& connection, int id) {
  if (id < 0) return "the end";
  v1::DetokenizeRequest request;
  request.add_token_ids(id);
  request.set_skip_special(false);
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::DetokenizeResponse response;
  const grpc::Status status = connection.stub()->Detokenize(&context, request, &response);
  return status.ok() ? absl::StrCat(id, " ", QuotePiece(response.text())) : absl::StrCat(id);
}

std::string Describe(const Connection& connection, const SampleComparison& sample) {
  const std::string name = absl::StrCat("sample ", sample.index + 1);
  if (sample.equal) {
    return absl::StrCat(name, ": equal",
                        sample.tokens > 0 ? absl::StrCat(", ", sample.tokens, " tokens") : "");
  }
  if (sample.first_difference < 0)
    return absl::StrCat(name, ": differs; its tokens were not recorded, so not known where");
  return absl::StrCat(name, ": differs from token ", sample.first_difference + 1, " of ",
                      sample.tokens, " on: recorded ", NameToken(connection, sample.recorded_token),
                      ", now ", NameToken(connection, sample.new_token));
}

nlohmann::ordered_json SampleJson(const SampleComparison& sample) {
  nlohmann::ordered_json object = {
      {"index", sample.index}, {"equal", sample.equal}, {"tokens", sample.tokens}};
  if (sample.first_difference < 0) return object;
  object["first_difference"] = sample.first_difference;
  if (sample.recorded_token >= 0) object["recorded_token"] = sample.recorded_token;
  if (sample.new_token >= 0) object["new_token"] = sample.new_token;
  return object;
}

// `changes`: what is another than it was, which explains differences.
int Report(const Connection& connection, const std::vector<SampleComparison>& samples,
           const std::vector<std::string>& changes) {
  const bool equal = std::all_of(samples.begin(), samples.end(),
                                 [](const SampleComparison& sample) { return sample.equal; });
  if (connection.options().json) {
    nlohmann::ordered_json result = {
        {"equal", equal}, {"samples", nlohmann::ordered_json::array()}, {"changes", changes}};
    for (const SampleComparison& sample : samples) result["samples"].push_back(SampleJson(sample));
    std::printf("%s\n",
                result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    for (const SampleComparison& sample : samples)
      std::printf("%s\n", Describe(connection, sample).c_str());
    for (const std::string& change : changes) std::printf("%s\n", change.c_str());
  }
  return equal ? kExitGood : kExitDiffers;
}

// Empty, or what is wrong. `source`: a file, "-" or the JSON itself.
std::string ReadRecord(const std::string& source, AnswerRecord* record) {
  std::string text = source, name = "the record";
  if (!absl::StartsWith(source, "{")) {
    name = source == "-" ? "standard input" : source;
    if (std::string problem = ReadWholeFile(source, &text); !problem.empty()) return problem;
  }
  const std::string problem = ParseRecord(text, record);
  return problem.empty() ? "" : absl::StrCat(name, ": ", problem);
}

int Replay(const ClientOptions& options, const std::string& source) {
  AnswerRecord record;
  if (std::string problem = ReadRecord(source, &record); !problem.empty())
    return ReportBadInput(problem);
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::GenerateResponse answer;
  const grpc::Status status = connection.stub()->GenerateOnce(&context, record.request, &answer);
  if (!status.ok()) return connection.Report(status, {});
  std::vector<SampleComparison> samples = {CompareAnswers(record.answers[0], answer)};
  for (int i = 1; i < static_cast<int>(record.answers.size()); ++i)
    samples.push_back(CompareAnswers(record.answers[i], answer.further_samples(i - 1)));
  return Report(
      connection, samples,
      CompareReceipts(record.answers[0].completion().receipt(), answer.completion().receipt()));
}

}  // namespace

void AddReplayCommand(CLI::App* app, const ClientOptions* options, Command* chosen) {
  CLI::App* command = app->add_subcommand(
      "replay", "Make a recorded answer again and tell whether it is the same, and where not");
  auto source = std::make_shared<std::string>();
  command
      ->add_option(
          "record", *source,
          "What generate --receipt wrote: a file, - for standard input, or the JSON itself")
      ->type_name("RECORD")
      ->required();
  command->footer(
      "An answer that differs ends with exit code 3.\n\n"
      "  mambactl generate --prompt 'Once upon a time' --temperature 1 --receipt answer.json\n"
      "  mambactl replay answer.json\n\n"
      "A client of your own keeps {\"request\": ..., \"answers\": [...]}: its request, and what\n"
      "GenerateOnce or the stream's messages answered.");
  command->callback([=] { *chosen = [=] { return Replay(*options, *source); }; });
}

}  // namespace mambad::cli
