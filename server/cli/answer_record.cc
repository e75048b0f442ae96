#include "server/cli/answer_record.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/digest/sha256.h"
#include "server/cli/json_output.h"

namespace mambad::cli {
namespace {

using nlohmann::json;

constexpr char kRecordShape[] =
    "expected {\"request\": GenerateRequest, \"answers\": [GenerateResponse, ...]}, as mambactl "
    "generate --receipt writes it";

// Empty, or what protobuf says against it.
std::string ParseMessage(const json& document, bool all_fields,
                         google::protobuf::Message* message) {
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = !all_fields;
  const auto status =
      google::protobuf::util::JsonStringToMessage(document.dump(), message, options);
  return status.ok() ? "" : std::string(status.message());
}

// Adds a message, of a stream or a whole answer, to what there is of its sample.
std::string AddAnswer(json message, std::map<int, v1::GenerateResponse>* samples) {
  if (!message.is_object()) return "it is no object";
  // Not compared, and their bytes are written in another way than protobuf's.
  for (const char* name : {"logprobs", "prompt_logprobs", "promptLogprobs"}) message.erase(name);
  for (const char* name : {"further_samples", "furtherSamples"}) {
    const json further = std::exchange(message[name], nullptr);
    message.erase(name);
    if (!further.is_array()) continue;
    for (const json& sample : further) {
      if (std::string problem = AddAnswer(sample, samples); !problem.empty()) return problem;
    }
  }
  v1::GenerateResponse part;
  if (std::string problem = ParseMessage(message, false, &part); !problem.empty()) return problem;
  v1::GenerateResponse& sample = (*samples)[part.index()];
  const std::string text = sample.text() + part.text();
  sample.MergeFrom(part);  // lists grow; the text would be replaced
  sample.set_text(text);
  return "";
}

// Of a sample whose tokens were not recorded; empty: neither were they.
std::string RecordedDigest(const v1::GenerateResponse& answer) {
  return answer.completion().receipt().answer_digest();
}

std::string DigestOf(const v1::GenerateResponse& answer) {
  Sha256 digest;
  digest.AddTokens({answer.token_ids().data(), static_cast<size_t>(answer.token_ids_size())});
  return digest.FinishAsDigits();
}

std::string CheckRecord(const AnswerRecord& record) {
  const int samples = std::max(1, record.request.output().n());
  if (static_cast<int>(record.answers.size()) != samples) {
    return absl::StrCat("answers: ", record.answers.size(), " found, ", samples,
                        " expected, as the request asks for");
  }
  for (int i = 0; i < samples; ++i) {
    const v1::GenerateResponse& answer = record.answers[static_cast<size_t>(i)];
    if (answer.index() != i) return absl::StrCat("answers: none of index ", i);
    if (!answer.has_completion())
      return absl::StrCat("answers: the one of index ", i, " has no completion: it broke off");
    const std::string recorded = RecordedDigest(answer);
    if (recorded.empty() && answer.token_ids_size() == 0)
      return absl::StrCat("answers: the one of index ", i, " has neither token_ids nor a receipt");
    if (!recorded.empty() && answer.token_ids_size() > 0 && recorded != DigestOf(answer)) {
      return absl::StrCat("answers: token_ids of index ", i,
                          " are not those that its receipt was made of");
    }
  }
  return "";
}

}  // namespace

AnswerRecord MakeRecord(const v1::GenerateRequest& request, const v1::Sampling& defaults,
                        const std::vector<v1::GenerateResponse>& answers) {
  AnswerRecord record{request, answers};
  *record.request.mutable_sampling() = defaults;
  record.request.mutable_sampling()->MergeFrom(request.sampling());
  if (!answers.empty()) record.request.mutable_sampling()->set_seed(answers[0].completion().seed());
  return record;
}

std::string RecordJson(const AnswerRecord& record) {
  std::string text = absl::StrCat("{\"request\": ", ToJson(record.request), ", \"answers\": [");
  for (size_t i = 0; i < record.answers.size(); ++i)
    absl::StrAppend(&text, i == 0 ? "" : ", ", ToJson(record.answers[i]));
  return absl::StrCat(text, "]}");
}

std::string ParseRecord(const std::string& text, AnswerRecord* record) {
  json document = json::parse(text, nullptr, false);
  if (document.is_discarded()) return absl::StrCat("not valid JSON; ", kRecordShape);
  if (!document.is_object() || !document.contains("request") || !document.contains("answers"))
    return kRecordShape;
  if (std::string problem = ParseMessage(document["request"], true, &record->request);
      !problem.empty())
    return absl::StrCat("request: ", problem);
  json answers = document["answers"];
  if (!answers.is_array()) answers = json::array({answers});
  std::map<int, v1::GenerateResponse> samples;
  for (const json& answer : answers) {
    if (std::string problem = AddAnswer(answer, &samples); !problem.empty())
      return absl::StrCat("answers: ", problem);
  }
  for (auto& [index, sample] : samples) record->answers.push_back(std::move(sample));
  if (std::string problem = CheckRecord(*record); !problem.empty()) return problem;
  record->request.mutable_sampling()->set_seed(record->answers[0].completion().seed());
  return "";
}

SampleComparison CompareAnswers(const v1::GenerateResponse& recorded,
                                const v1::GenerateResponse& answer) {
  SampleComparison result;
  result.index = recorded.index();
  result.tokens = recorded.token_ids_size();
  if (result.tokens == 0) {
    result.equal = RecordedDigest(recorded) == DigestOf(answer);
    return result;
  }
  const auto& before = recorded.token_ids();
  const auto& now = answer.token_ids();
  const auto [left, right] = std::mismatch(before.begin(), before.end(), now.begin(), now.end());
  result.equal = left == before.end() && right == now.end();
  if (result.equal) return result;
  result.first_difference = static_cast<int>(left - before.begin());
  if (left != before.end()) result.recorded_token = *left;
  if (right != now.end()) result.new_token = *right;
  return result;
}

std::vector<std::string> CompareReceipts(const v1::Receipt& recorded, const v1::Receipt& now) {
  std::vector<std::string> lines;
  const auto compare = [&](const std::string& name, const std::string& before,
                           const std::string& after) {
    if (!before.empty() && before != after)
      lines.push_back(absl::StrCat(name, ": recorded ", before, ", now ", after));
  };
  compare("another model", recorded.model_fingerprint(), now.model_fingerprint());
  compare("computed by other rules", recorded.numerics(), now.numerics());
  compare("the prompt became other tokens (tokenizer, chat template)", recorded.prompt_digest(),
          now.prompt_digest());
  return lines;
}

}  // namespace mambad::cli
