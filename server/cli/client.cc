#include "server/cli/client.h"

#include <google/protobuf/util/json_util.h>
#include <grpcpp/create_channel.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/status_details.h"

namespace mambad::cli {
namespace {

// Any type of details that this program was built with.
std::string DescribeDetails(const std::string& bytes) {
  google::rpc::Status status;
  if (bytes.empty() || !status.ParseFromString(bytes)) return "";
  std::string text;
  for (const auto& detail : status.details()) {
    google::rpc::BadRequest bad_request;
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        absl::StrAppend(&text, "  ", violation.field(), ": ", violation.description(), "\n");
      }
    } else if (detail.UnpackTo(&retry)) {
      absl::StrAppend(&text, "  try again in ",
                      retry.retry_delay().seconds() + retry.retry_delay().nanos() * 1e-9, " s\n");
    }
  }
  return text;
}

std::string CodeText(grpc::StatusCode code) {
  return std::string(server::CodeName(static_cast<absl::StatusCode>(code)));
}

}  // namespace

std::shared_ptr<grpc::Channel> Connection::Open() const {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void Connection::Prepare(grpc::ClientContext* context) const {
  if (timeout_seconds <= 0) return;
  context->set_deadline(std::chrono::system_clock::now() +
                        std::chrono::microseconds(int64_t(timeout_seconds * 1e6)));
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return "{}";
  return text;
}

void PrintJson(const google::protobuf::Message& message) {
  std::printf("%s\n", ToJson(message).c_str());
  std::fflush(stdout);
}

int ReportFailure(const Connection& connection, const grpc::Status& status) {
  if (connection.json) {
    nlohmann::ordered_json line;
    line["error"] = {{"code", CodeText(status.error_code())}, {"message", status.error_message()}};
    std::printf("%s\n",
                line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return kExitFailed;
  }
  std::fprintf(stderr, "mambactl: %s: %s\n%s", CodeText(status.error_code()).c_str(),
               status.error_message().c_str(), DescribeDetails(status.error_details()).c_str());
  return kExitFailed;
}

int ReportBadInput(const std::string& message) {
  std::fprintf(stderr, "mambactl: %s\n", message.c_str());
  return kExitBadInput;
}

bool ParseTokenIds(const std::string& text, std::vector<int32_t>* ids) {
  ids->clear();
  if (text.empty()) return true;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    if (!absl::SimpleAtoi(part, &ids->emplace_back())) return false;
  }
  return true;
}

std::string ParseMessages(const std::string& text, v1::Conversation* conversation) {
  using nlohmann::json;
  json document = json::parse(text, nullptr, false);
  if (document.is_object() && document.contains("messages")) {
    json messages = document["messages"];
    document = std::move(messages);
  }
  if (!document.is_array())
    return "messages: expected a JSON list of {\"role\": ..., \"content\": ...}";
  for (const json& entry : document) {
    const bool good = entry.is_object() && entry.contains("role") && entry["role"].is_string() &&
                      entry.contains("content") && entry["content"].is_string();
    if (!good)
      return absl::StrCat("messages[", conversation->messages_size(),
                          "]: expected a role and a content");
    v1::Message* message = conversation->add_messages();
    message->set_role(entry["role"].get<std::string>());
    message->set_content(entry["content"].get<std::string>());
  }
  return "";
}

void GenerationFlags::Register(CLI::App* app, bool with_input) {
  if (with_input) {
    app->add_option("--prompt", prompt_, "Text to go on from; - reads standard input");
    app->add_option("--token-ids", token_ids_, "Token ids to go on from: 1,2,3");
    app->add_option("--messages", messages_file_,
                    "JSON file with a list of {role, content}; - reads standard input");
  }
  app->add_option("--max-tokens", max_tokens_,
                  "Tokens at most (default: what the context has room for)");
  app->add_option("--min-tokens", min_tokens_, "Tokens at least (default 0)");
  app->add_option("--temperature", temperature_, "0: greedy, to 100 (default: the model's)");
  app->add_option("--top-p", top_p_, "Above 0, to 1 (default: the model's)");
  app->add_option("--top-k", top_k_, "0: off (default: the model's)");
  app->add_option("--min-p", min_p_, "0 to 1 (default: the model's)");
  app->add_option("--repetition-penalty", repetition_penalty_,
                  "Above 0, to 100 (default: the model's)");
  app->add_option("--presence-penalty", presence_penalty_, "-100 to 100 (default 0)");
  app->add_option("--frequency-penalty", frequency_penalty_, "-100 to 100 (default 0)");
  app->add_option("--seed", seed_, "Repeats an answer (default: drawn by the server)");
  app->add_option("--logit-bias", logit_bias_, "ID:BIAS; may be repeated");
  app->add_option("--allowed-token-ids", allowed_token_ids_, "Only these: 1,2,3");
  app->add_option("--stop", stop_strings_, "Text that ends the answer; may be repeated");
  app->add_option("--stop-token-ids", stop_token_ids_, "Token ids that end the answer: 1,2,3");
  app->add_flag("--ignore-eos", ignore_eos_, "Go on after end-of-text");
  app->add_flag("--include-stop", include_stop_, "Leave the stop text in the answer");
  app->add_option("--logprobs", logprobs_, "Log-probabilities with this many alternatives a token");
  app->add_option("--prompt-logprobs", prompt_logprobs_, "The same for the prompt");
  app->add_flag("--echo", echo_, "The prompt's text first");
  app->add_option("--n", n_, "Samples (default 1)");
  app->add_option("--stream-interval", stream_interval_, "Tokens a message (default 1)");
  app->add_option("--speculation", speculation_,
                  "auto, off, draft-model or prompt-lookup (default auto)")
      ->check(CLI::IsMember({"auto", "off", "draft-model", "prompt-lookup"}));
  app->add_option("--draft-length", draft_length_, "Tokens a round (default: adapted)");
  app->add_option("--priority", priority_, "-100 to 100, higher first (default 0)");
  app->add_option("--request-id", request_id_, "The request's name in the server's log");
}

std::string GenerationFlags::FillInput(v1::GenerateRequest* request) const {
  const auto read = [](const std::string& path, std::string* text) {
    std::ifstream file;
    std::istream& stream = path == "-" ? std::cin : (file.open(path, std::ios::binary), file);
    text->assign(std::istreambuf_iterator<char>(stream), {});
    return !stream.bad() && (path == "-" || file.is_open());
  };
  if (prompt_.has_value() + token_ids_.has_value() + messages_file_.has_value() > 1) {
    return "give one of --prompt, --token-ids, --messages";
  }
  std::string text;
  if (messages_file_) {
    if (!read(*messages_file_, &text)) return absl::StrCat(*messages_file_, ": cannot be read");
    return ParseMessages(text, request->mutable_conversation());
  }
  if (token_ids_) {
    std::vector<int32_t> ids;
    if (!ParseTokenIds(*token_ids_, &ids)) return "--token-ids: expected numbers as in 1,2,3";
    request->mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  } else if (prompt_) {
    if (*prompt_ == "-" && !read("-", &text)) return "standard input: cannot be read";
    request->set_text(*prompt_ == "-" ? text : *prompt_);
  }
  return "";
}

std::string GenerationFlags::Fill(v1::GenerateRequest* request) const {
  if (std::string problem = FillInput(request); !problem.empty()) return problem;
  v1::Sampling* sampling = request->mutable_sampling();
  if (temperature_) sampling->set_temperature(*temperature_);
  if (top_p_) sampling->set_top_p(*top_p_);
  if (top_k_) sampling->set_top_k(*top_k_);
  if (min_p_) sampling->set_min_p(*min_p_);
  if (repetition_penalty_) sampling->set_repetition_penalty(*repetition_penalty_);
  if (presence_penalty_) sampling->set_presence_penalty(*presence_penalty_);
  if (frequency_penalty_) sampling->set_frequency_penalty(*frequency_penalty_);
  if (seed_) sampling->set_seed(*seed_);
  for (const std::string& entry : logit_bias_) {
    const std::vector<std::string> parts = absl::StrSplit(entry, ':');
    int32_t id = 0;
    float bias = 0;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &id) ||
        !absl::SimpleAtof(parts[1], &bias)) {
      return "--logit-bias: expected ID:BIAS";
    }
    (*sampling->mutable_logit_bias())[id] = bias;
  }
  std::vector<int32_t> ids;
  if (!ParseTokenIds(allowed_token_ids_.value_or(""), &ids))
    return "--allowed-token-ids: expected numbers as in 1,2,3";
  sampling->mutable_allowed_token_ids()->Add(ids.begin(), ids.end());
  v1::Stopping* stopping = request->mutable_stopping();
  if (max_tokens_) stopping->set_max_tokens(*max_tokens_);
  if (min_tokens_) stopping->set_min_tokens(*min_tokens_);
  for (const std::string& text : stop_strings_) stopping->add_stop_strings(text);
  if (!ParseTokenIds(stop_token_ids_.value_or(""), &ids))
    return "--stop-token-ids: expected numbers as in 1,2,3";
  stopping->mutable_stop_token_ids()->Add(ids.begin(), ids.end());
  if (ignore_eos_) stopping->set_ignore_eos(true);
  if (include_stop_) stopping->set_include_stop(true);
  v1::Output* output = request->mutable_output();
  if (logprobs_) output->set_logprobs(*logprobs_);
  if (prompt_logprobs_) output->set_prompt_logprobs(*prompt_logprobs_);
  if (echo_) output->set_echo(true);
  if (n_) output->set_n(*n_);
  if (stream_interval_) output->set_stream_interval(*stream_interval_);
  v1::Speculation* speculation = request->mutable_speculation();
  if (speculation_ == "off") speculation->set_mode(v1::Speculation::OFF);
  if (speculation_ == "draft-model") speculation->set_mode(v1::Speculation::DRAFT_MODEL);
  if (speculation_ == "prompt-lookup") speculation->set_mode(v1::Speculation::PROMPT_LOOKUP);
  if (draft_length_) speculation->set_draft_length(*draft_length_);
  if (priority_) request->set_priority(*priority_);
  if (request_id_) request->set_request_id(*request_id_);
  return "";
}

}  // namespace mambad::cli
