#include "server/command_line.h"

#include <CLI/CLI.hpp>
#include <optional>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/text/chat_template_file.h"
#include "server/cli/manual.h"
#include "server/cli/number_options.h"
#include "server/cli/suggestions.h"
#include "server/version.h"

namespace mambad::server {
namespace {

struct Flags {
  std::optional<std::string> config, model, draft, chat_template, model_name, listen, metrics,
      device;
  std::optional<std::string> tls_certificate, tls_key, tls_client_ca, token_file;
  std::optional<int> threads;
  std::optional<double> memory_fraction;
  bool allow_insecure = false;
  bool check_config = false;
  bool version = false;
  bool manual = false;
  std::string completion;  // for which shell
};

constexpr char kFooter[] =
    "The configuration file has more settings than there are flags: mambad.yaml, which comes with\n"
    "mambad (deploy/ in the source, etc/mambad/ where it is installed), lists all with their "
    "defaults.\n"
    "\n"
    "SIGTERM and SIGINT drain: new calls are refused, running ones may finish. SIGHUP reads "
    "certificates\n"
    "and tokens again, which happens by itself when their files change. Exit codes: 0 "
    "drained, or\n"
    "stopped while loading; 2 a flag, the configuration, a model or a port is wrong; 3 ended by a "
    "second\n"
    "signal, a second or more after the first, before the drain was over; 4 failed while it "
    "served.";

void AddFlags(CLI::App* app, Flags* flags) {
  app->add_option("--config", flags->config, "Configuration file (YAML); flags win over it");
  app->add_option("--model", flags->model, "Checkpoint directory or .gguf file to serve");
  app->add_option("--draft", flags->draft, "Draft model for speculation: the same forms");
  app->add_option("--chat-template", flags->chat_template,
                  "File of a Jinja chat template to use instead of the model's own");
  app->add_option("--model-name", flags->model_name,
                  "What clients of a router call the model (default: its file's name)");
  app->add_option("--listen", flags->listen,
                  "host:port of gRPC; port 0 picks a free one (default 127.0.0.1:50051)");
  app->add_option("--tls-certificate", flags->tls_certificate,
                  "File (PEM) of the server's certificate and its chain; with --tls-key");
  app->add_option("--tls-key", flags->tls_key, "File (PEM) of its private key");
  app->add_option("--tls-client-ca", flags->tls_client_ca,
                  "File (PEM) of authorities: clients must show a certificate of theirs");
  app->add_option("--token-file", flags->token_file,
                  "File of tokens: callers must show one (mambactl token create adds to it)");
  app->add_flag("--allow-insecure", flags->allow_insecure,
                "Listen beyond loopback also without TLS, or without asking who calls");
  app->add_option("--metrics", flags->metrics,
                  "host:port of /metrics; empty: none (default 127.0.0.1:9464)");
  app->add_option("--device", flags->device, "auto, cpu, cuda or cuda:N (default auto)");
  app->add_option("--threads", flags->threads,
                  "Compute threads of the CPU at most; 0: one a core (default 0)");
  cli::AddNumber(app, "--memory-fraction", &flags->memory_fraction,
                 "Of the device's free memory, what may be filled with sequences and cache where\n"
                 "nobody says how many; 0: 0.9 of a GPU's, 0.95 of the machine's (default 0)",
                 {0, 1});
  app->add_flag(
      "--check-config", flags->check_config,
      "Check the configuration, and the models' files but their weights, and exit: 0 good, 2 bad");
  app->add_flag("--version", flags->version, "Print the version and exit");
  app->add_flag("--manual", flags->manual, "Print the manual page: mambad --manual | man -l -");
  app->add_flag(
         "--completion{bash}", flags->completion,
         "Print what completes in bash: source <(mambad --completion); =zsh, =fish: in those")
      ->check(CLI::IsMember(cli::CompletionShells()));
  app->footer(kFooter);
}

void ApplyFlags(const Flags& flags, ServerOptions* options) {
  if (flags.model) options->engine.model = *flags.model;
  if (flags.draft) options->engine.draft_model = *flags.draft;
  if (flags.chat_template) options->engine.chat_template = *flags.chat_template;
  if (flags.model_name) options->model_name = *flags.model_name;
  if (flags.listen) options->listen = *flags.listen;
  if (flags.tls_certificate) options->tls.certificate = *flags.tls_certificate;
  if (flags.tls_key) options->tls.private_key = *flags.tls_key;
  if (flags.tls_client_ca) options->tls.client_ca = *flags.tls_client_ca;
  if (flags.token_file) options->token_file = *flags.token_file;
  if (flags.allow_insecure) options->allow_insecure = true;
  if (flags.metrics) options->metrics_listen = *flags.metrics;
  if (flags.device) options->engine.device = *flags.device;
  if (flags.threads) options->engine.threads = *flags.threads;
  if (flags.memory_fraction) options->engine.memory_fraction = *flags.memory_fraction;
}

// The file that replaces the model's template must be there; what it says is judged where it is
// used.
absl::Status CheckChatTemplate(const ServerOptions& options) {
  if (options.engine.chat_template.empty()) return absl::OkStatus();
  const absl::Status status = text::ReadChatTemplateFile(options.engine.chat_template).status();
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat("chat_template: ", status.message()));
}

constexpr char kMoreHelp[] = " (mambad --help lists the options)";

// Of what was left over, the first option, else the first word: it is the one that was meant.
absl::Status UnknownWord(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) names.push_back(option->get_name());
  std::string word;
  for (const std::string& left : app.remaining()) {
    const bool is_option = absl::StartsWith(left, "-");
    if (word.empty() || (is_option && !absl::StartsWith(word, "-"))) word = left;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(word, ": no such option", cli::DidYouMean(word, names), kMoreHelp));
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(int argument_count, const char* const* arguments,
                                             LogFormat* log_format) {
  CLI::App app("mambad: serves distilled Mamba language models over gRPC", "mambad");
  Flags flags;
  AddFlags(&app, &flags);
  CommandLine result;
  try {
    app.parse(argument_count, arguments);
  } catch (const CLI::CallForHelp&) {
    result.action = CommandLine::Action::kPrint;
    result.text = app.help();
    return result;
  } catch (const CLI::ExtrasError&) {
    return UnknownWord(app);
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(absl::StrCat(cli::OptionProblem(error.what()), kMoreHelp));
  }
  if (flags.version) {
    result.action = CommandLine::Action::kPrint;
    result.text = absl::StrCat("mambad ", kVersion, "\n");
    return result;
  }
  if (flags.manual || !flags.completion.empty()) {
    result.action = CommandLine::Action::kPrint;
    result.text =
        flags.manual ? cli::ManualPage(app, kVersion) : cli::Completion(app, flags.completion);
    return result;
  }
  if (flags.config) {
    absl::Status status = ReadOptionsFile(*flags.config, &result.options);
    if (!status.ok()) return status;
  }
  ApplyFlags(flags, &result.options);
  if (log_format != nullptr && !flags.check_config) *log_format = result.options.log_format;
  if (absl::Status status = ValidateOptions(result.options); !status.ok()) return status;
  if (absl::Status status = CheckChatTemplate(result.options); !status.ok()) return status;
  if (flags.check_config) result.action = CommandLine::Action::kCheckConfig;
  return result;
}

}  // namespace mambad::server
