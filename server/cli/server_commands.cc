// mambactl info, load and health: what is served and how busy it is.

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/json_output.h"
#include "server/cli/terminal_text.h"

namespace mambad::cli {
namespace {

// Without --timeout: a probe wants an answer soon or none.
constexpr double kHealthSeconds = 5;

// A line with a name before it; without a name it goes on with the line above.
void PrintLine(const char* name, const std::string& text) {
  std::printf("%-12s %s\n", name, text.c_str());
}

void PrintModel(const char* name, const v1::Model& model) {
  std::string layers = absl::StrCat(model.layers(), " layers");
  if (model.attention_layers() > 0 && model.attention_layers() < model.layers())
    absl::StrAppend(&layers, ", ", model.attention_layers(), " of them attention");
  PrintLine(name, model.path());
  PrintLine("", absl::StrCat(model.family(), ", ", layers, ", width ", model.width()));
  PrintLine("", absl::StrCat(ShortCount(model.parameters()), " parameters in ", model.weight_type(),
                             ", ", ShortBytes(model.weight_bytes())));
  PrintLine("", absl::StrCat("fingerprint ", model.fingerprint()));
}

std::string SamplingText(const v1::Sampling& sampling) {
  const bool greedy = sampling.temperature() == 0;
  std::string text = absl::StrCat("temperature ", sampling.temperature(),
                                  greedy ? " (always the most likely token)" : "");
  const auto add = [&](const char* name, float value, float off) {
    if (value != off) absl::StrAppend(&text, ", ", name, " ", value);
  };
  add("top-p", sampling.top_p(), 1);
  add("top-k", static_cast<float>(sampling.top_k()), 0);
  add("min-p", sampling.min_p(), 0);
  add("repetition penalty", sampling.repetition_penalty(), 1);
  add("presence penalty", sampling.presence_penalty(), 0);
  add("frequency penalty", sampling.frequency_penalty(), 0);
  return text;
}

std::string SpeculationText(const v1::GetModelInfoResponse& info) {
  if (info.limits().draft_length() == 0) return "off";
  std::string text = info.has_draft_model() ? "draft model" : "";
  if (info.prompt_lookup()) absl::StrAppend(&text, text.empty() ? "" : " and ", "prompt lookup");
  if (text.empty()) return "off";
  return absl::StrCat(text, ", up to ", info.limits().draft_length(), " tokens a round");
}

std::string MemoryText(const v1::MemoryPlan& plan) {
  const int64_t total =
      plan.weights() + plan.states() + plan.keys_and_values() + plan.tables() + plan.workspace();
  return absl::StrCat(
      ShortBytes(total), " planned: weights ", ShortBytes(plan.weights()), ", states ",
      ShortBytes(plan.states()), ", keys and values ", ShortBytes(plan.keys_and_values()),
      ", tables ", ShortBytes(plan.tables()), ", work space ", ShortBytes(plan.workspace()),
      plan.has_free() ? absl::StrCat("; ", ShortBytes(plan.free()), " were free") : "");
}

void PrintInfo(const std::string& address, const v1::GetModelInfoResponse& info) {
  const v1::Limits& limits = info.limits();
  PrintLine("server", absl::StrCat("mambad ", info.server_version(), " at ", address,
                                   info.device().empty() ? "" : ", computes on ", info.device()));
  PrintModel("model", info.model());
  if (info.has_draft_model()) {
    PrintModel("draft model", info.draft_model());
  } else {
    PrintLine("draft model", "none");
  }
  PrintLine("context", absl::StrCat(GroupDigits(limits.context()),
                                    " tokens of prompt and answer; a prompt may have ",
                                    GroupDigits(limits.prompt_tokens())));
  PrintLine(
      "vocabulary",
      absl::StrCat(
          GroupDigits(info.model().vocabulary()), " tokens; ends of text: ",
          info.model().eos_ids().empty() ? "none" : absl::StrJoin(info.model().eos_ids(), ", ")));
  PrintLine("tokenizer", info.has_tokenizer() ? "yes" : "no: token ids only");
  PrintLine("chat", info.has_chat_template() ? "yes: mambactl chat, generate --user"
                                             : "no chat template: it goes on from a prompt");
  PrintLine("speculation", SpeculationText(info));
  PrintLine("sampling", SamplingText(info.default_sampling()));
  PrintLine("", "(unless a request says otherwise)");
  PrintLine("at a time",
            absl::StrCat(GroupDigits(limits.sequences()), " sequences run, ",
                         GroupDigits(limits.waiting()), " requests may wait; state ",
                         ShortBytes(info.model().state_bytes_per_sequence()), " a sequence"));
  if (info.has_memory()) PrintLine("memory", MemoryText(info.memory()));
  PrintLine("a request", absl::StrCat("up to ", limits.n(), " samples, ", limits.logprobs(),
                                      " alternatives a token, ", limits.stop_strings(),
                                      " stop texts of ", limits.stop_string_bytes(), " bytes, ",
                                      ShortBytes(limits.message_bytes())));
}

int Info(const ClientOptions& options) {
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::GetModelInfoResponse response;
  const grpc::Status status = connection.stub()->GetModelInfo(&context, {}, &response);
  if (!status.ok()) return connection.Report(status, {});
  if (options.json) {
    PrintJson(response);
  } else {
    PrintInfo(connection.address(), response);
  }
  return kExitGood;
}

void PrintLoad(const v1::GetLoadResponse& load) {
  PrintLine("state", load.draining() ? "draining: takes no new requests" : "serving");
  PrintLine("requests", absl::StrFormat("%d running, %d waiting (%s prompt tokens)", load.running(),
                                        load.waiting(), GroupDigits(load.waiting_tokens())));
  PrintLine("slots", absl::StrFormat("%d of %d in use", load.slots_used(), load.slots_total()));
  if (load.pages_total() > 0) {
    PrintLine("pages",
              absl::StrFormat("%s of %s in use, of keys and values", GroupDigits(load.pages_used()),
                              GroupDigits(load.pages_total())));
  }
  PrintLine("memory", absl::StrCat(ShortBytes(load.state_bytes()), " in slots and pages in use"));
  // The wire says 0 for no drafts and for none accepted.
  const std::string acceptance =
      load.acceptance_rate() > 0 ? absl::StrFormat("%.2f of drafts", load.acceptance_rate()) : "-";
  PrintLine("speed", absl::StrFormat("%.1f tokens/s over the last 10 s, acceptance %s%s",
                                     load.tokens_per_second(), acceptance,
                                     load.speculation_enabled() ? "" : ", speculation off"));
  PrintLine("wait", absl::StrCat("about ",
                                 ShortSeconds(static_cast<double>(load.estimated_wait_us()) * 1e-6),
                                 " for a new request"));
}

int Load(const ClientOptions& options) {
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  grpc::ClientContext context;
  connection.Prepare(&context);
  v1::GetLoadResponse response;
  const grpc::Status status = connection.stub()->GetLoad(&context, {}, &response);
  if (!status.ok()) return connection.Report(status, {});
  if (options.json) {
    PrintJson(response);
  } else {
    PrintLoad(response);
  }
  return kExitGood;
}

int Health(const ClientOptions& given, const std::string& service) {
  ClientOptions options = given;
  if (options.timeout_seconds <= 0) options.timeout_seconds = kHealthSeconds;
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  auto stub = grpc::health::v1::Health::NewStub(connection.channel());
  grpc::ClientContext context;
  connection.Prepare(&context);
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, request, &response);
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
    const grpc::Status unknown(status.error_code(),
                               absl::StrCat("--service: the server has no \"", service, "\""));
    return connection.Report(unknown, {});
  }
  if (!status.ok()) return connection.Report(status, {});
  using Answer = grpc::health::v1::HealthCheckResponse;
  if (options.json) {
    PrintJson(response);
  } else {
    std::printf("%s\n", Answer::ServingStatus_Name(response.status()).c_str());
  }
  return response.status() == Answer::SERVING ? kExitGood : kExitFailed;
}

}  // namespace

void AddServerCommands(CLI::App* app, const ClientOptions* options, Command* chosen) {
  app->add_subcommand("info", "What is served, and within which limits")->callback([=] {
    *chosen = [=] { return Info(*options); };
  });
  app->add_subcommand("load", "How busy the server is")->callback([=] {
    *chosen = [=] { return Load(*options); };
  });
  CLI::App* health =
      app->add_subcommand("health", "Whether it serves: exit code 0 when it does, 1 otherwise");
  auto service = std::make_shared<std::string>();
  health
      ->add_option("--service", *service,
                   "One service, for example mambad.v1.Generation (default: the whole server)")
      ->type_name("NAME");
  health->footer(
      "Answers within 5 s, or within --timeout. For a container's health check:\n\n"
      "  HEALTHCHECK CMD mambactl health --timeout 2");
  health->callback([=] { *chosen = [=] { return Health(*options, *service); }; });
}

}  // namespace mambad::cli
