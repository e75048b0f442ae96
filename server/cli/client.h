// What the subcommands of mambactl share: the connection, output, and generation flags.

#ifndef MAMBAD_SERVER_CLI_CLIENT_H_
#define MAMBAD_SERVER_CLI_CLIENT_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mambad/v1/generation.grpc.pb.h"

namespace mambad::cli {

inline constexpr int kExitGood = 0;
inline constexpr int kExitFailed = 1;    // the call failed
inline constexpr int kExitBadInput = 2;  // a flag or a file is wrong

// Flags before the subcommand.
struct Connection {
  std::string address = "127.0.0.1:50051";
  bool json = false;
  double timeout_seconds = 0;  // 0: none

  std::shared_ptr<grpc::Channel> Open() const;
  // Sets the deadline, if any.
  void Prepare(grpc::ClientContext* context) const;
};

// One JSON object on one line, with the field names of the proto and defaults spelled out.
std::string ToJson(const google::protobuf::Message& message);
void PrintJson(const google::protobuf::Message& message);

// "CODE: message" and its details on standard error; kExitFailed. With `json` one JSON object on
// standard output instead.
int ReportFailure(const Connection& connection, const grpc::Status& status);
int ReportBadInput(const std::string& message);

// "1,2,3" -> ids. False when it is anything else.
bool ParseTokenIds(const std::string& text, std::vector<int32_t>* ids);

// Flags of a generating subcommand, and the request they make.
class GenerationFlags {
 public:
  void Register(CLI::App* app, bool with_input);
  // Empty, or what is wrong with the flags or the messages file.
  std::string Fill(v1::GenerateRequest* request) const;

 private:
  std::string FillInput(v1::GenerateRequest* request) const;

  std::optional<std::string> prompt_, token_ids_, messages_file_, stop_token_ids_,
      allowed_token_ids_, request_id_;
  std::vector<std::string> stop_strings_, logit_bias_;
  std::optional<int64_t> max_tokens_, min_tokens_;
  std::optional<float> temperature_, top_p_, min_p_;
  std::optional<float> repetition_penalty_, presence_penalty_, frequency_penalty_;
  std::optional<int> top_k_, logprobs_, prompt_logprobs_, n_, stream_interval_, draft_length_,
      priority_;
  std::optional<uint64_t> seed_;
  std::string speculation_ = "auto";
  bool ignore_eos_ = false, include_stop_ = false, echo_ = false;
};

// JSON text [{"role": ..., "content": ...}, ...] (or {"messages": [...]}) -> conversation. Empty,
// or what is wrong.
std::string ParseMessages(const std::string& text, v1::Conversation* conversation);

// Each registers one subcommand; `result` gets the exit code when it ran. All pointers outlive
// parsing.
void AddGenerateCommand(CLI::App* app, const Connection* connection, int* result);
void AddChatCommand(CLI::App* app, const Connection* connection, int* result);
void AddScoreCommand(CLI::App* app, const Connection* connection, int* result);
void AddTokenizeCommands(CLI::App* app, const Connection* connection, int* result);
void AddServerCommands(CLI::App* app, const Connection* connection,
                       int* result);  // info, load, health
void AddBenchCommand(CLI::App* app, const Connection* connection, int* result);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_CLIENT_H_
