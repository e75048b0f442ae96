// The client of mambad: one subcommand a call.

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <langinfo.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/manual.h"
#include "server/cli/number_options.h"
#include "server/cli/suggestions.h"
#include "server/version.h"

namespace mambad::cli {
namespace {

constexpr double kUsualWait = 60;  // seconds, of --wait without a number
constexpr double kLongestWait = 86400;

constexpr char kFooter[] =
    "The options above may also stand behind the command. mambactl COMMAND --help tells the rest.\n"
    "\n"
    "Exit codes: 0 done; 1 the call failed, or no server was there; 2 a flag or a file is wrong,\n"
    "nothing was sent; 3 a replayed answer differs; 130 left with Ctrl-C.\n"
    "\n"
    "JSON: one object a message on a line of its own, fields as in "
    "proto/mambad/v1/generation.proto.\n"
    "Whole numbers are numbers, also those beyond 2^53 (seed); bytes (pieces of tokens) are a "
    "string\nwhere they are UTF-8, else a list of numbers. A failed call is "
    "{\"error\": {\"code\", \"message\"}}.";

bool IsSet(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && value[0] != '\0';
}

// All that is read of the surroundings.
void ReadSurroundings(ClientOptions* options) {
  if (const char* token = std::getenv("MAMBAD_TOKEN"); token != nullptr) options->token = token;
  const char* kind = std::getenv("TERM");
  const bool is_able = kind != nullptr && kind[0] != '\0' && std::strcmp(kind, "dumb") != 0;
  options->shows_text = isatty(STDOUT_FILENO) != 0;
  options->hints = isatty(STDERR_FILENO) != 0;
  options->dims_status = options->hints && is_able && !IsSet("NO_COLOR");
  options->edits_lines = options->hints && is_able && isatty(STDIN_FILENO) != 0;
  // Texts are UTF-8, whatever the surroundings forgot to say.
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
}

// Libraries' own lines on standard error say little to people.
void SilenceLibraries() {
  gpr_set_log_function([](gpr_log_func_args*) {});
  google::protobuf::SetLogHandler(nullptr);
}

void AddOptions(CLI::App* app, ClientOptions* options) {
  app->add_option("--address", options->address,
                  "The server: HOST, HOST:PORT or [IPv6]:PORT (default 127.0.0.1:50051)")
      ->type_name("HOST:PORT");
  app->add_flag("--json", options->json, "Output for programs: see below");
  AddNumber(app, "--timeout", &options->timeout_seconds,
            "Seconds that each call may take; 0: any time (default 0)", {0, kLongestWait})
      ->type_name("SECONDS");
  app->add_option_function<std::string>(
         "--wait",
         [options](const std::string& text) {
           double seconds = kUsualWait;
           const std::string problem =
               text.empty() ? "" : ReadNumber<double>(text, {0, kLongestWait}, &seconds);
           if (!problem.empty()) throw CLI::ValidationError("--wait", problem);
           options->wait_seconds = seconds;
         },
         "First wait until the server serves, at most so long (without a number: 60)")
      ->type_name("[SECONDS]")
      ->expected(0, 1);
  app->add_flag("--tls", options->tls, "TLS, with the authorities that this system trusts");
  app->add_option("--ca", options->ca, "TLS, trusting the authorities in this file (PEM) alone")
      ->type_name("FILE");
  app->add_option("--cert", options->certificate,
                  "TLS, showing this certificate (PEM) where the server asks for one; with --key")
      ->type_name("FILE");
  app->add_option("--key", options->private_key, "The private key (PEM) of --cert")
      ->type_name("FILE");
  app->add_option("--token-file", options->token_file,
                  "Shows the token in this file (default: the one in MAMBAD_TOKEN, if set)")
      ->type_name("FILE");
  app->add_flag("--verbose", options->verbose, "Also show gRPC's own messages");
}

std::vector<std::string> CommandNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  return names;
}

std::vector<std::string> OptionNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back(absl::StrCat("--", name));
  }
  return names;
}

int NoCommand(const CLI::App& app) {
  std::fputs("mambactl: a command is missing. There are:\n\n", stderr);
  for (const CLI::App* command : app.get_subcommands({})) {
    std::fprintf(stderr, "  %-11s %s\n", command->get_name().c_str(),
                 command->get_description().c_str());
  }
  std::fputs("\nmambactl --help tells more, mambactl COMMAND --help all about one.\n", stderr);
  return kExitBadInput;
}

// `word` belongs to nothing.
int UnknownWord(const CLI::App& app, const std::string& word) {
  const auto chosen = app.get_subcommands();
  const std::string name = word.substr(0, word.find('='));
  const std::string program =
      chosen.empty() ? "mambactl" : absl::StrCat("mambactl ", chosen[0]->get_name());
  if (absl::StartsWith(word, "-") && word.size() > 1) {
    std::vector<std::string> names = OptionNames(app);
    if (!chosen.empty()) {
      for (std::string& option : OptionNames(*chosen[0])) names.push_back(std::move(option));
    }
    return ReportBadInput(absl::StrCat("there is no option ", name, " of ", program,
                                       DidYouMean(name, names), " (", program,
                                       " --help lists them)"));
  }
  if (chosen.empty()) {
    return ReportBadInput(absl::StrCat("there is no command \"", word, "\"",
                                       DidYouMean(word, CommandNames(app)),
                                       " (mambactl --help lists them)"));
  }
  return ReportBadInput(absl::StrCat("\"", word, "\" belongs to no option of ", program,
                                     "; a text with spaces needs quotes (", program,
                                     " --help lists the options)"));
}

// The words that no option or command took, in their order.
int JudgeRest(const CLI::App& app, const std::vector<std::string>& rest) {
  // Without a command the first tells most: of a misspelt one, the options behind it are strangers.
  if (app.get_subcommands().empty()) return UnknownWord(app, rest.front());
  for (const std::string& word : rest) {
    if (absl::StartsWith(word, "-") && word.size() > 1) return UnknownWord(app, word);
  }
  return UnknownWord(app, rest.front());
}

// For packages and shells, which ask the program about itself.
void AddManualCommands(CLI::App* app, Command* chosen) {
  const auto print = [chosen](const std::function<std::string()>& text) {
    *chosen = [text] {
      std::fputs(text().c_str(), stdout);
      return kExitGood;
    };
  };
  app->add_subcommand("manual", "Prints the manual page: mambactl manual | man -l -")
      ->callback([=] { print([app] { return ManualPage(*app, server::kVersion); }); });
  CLI::App* completion = app->add_subcommand(
      "completion", "Prints what completes in a shell: source <(mambactl completion)");
  auto shell = std::make_shared<std::string>(CompletionShells().front());
  completion->add_option("SHELL", *shell, "bash (if none is said), zsh or fish")
      ->check(CLI::IsMember(CompletionShells()));
  completion->callback([=] { print([=] { return Completion(*app, *shell); }); });
}

int RunProgram(int argc, char** argv) {
  CLI::App app("mambactl: talks to mambad, a server of language models", "mambactl");
  ClientOptions options;
  ReadSurroundings(&options);
  Command chosen;
  AddOptions(&app, &options);
  app.set_version_flag("--version", std::string("mambactl ") + server::kVersion,
                       "Print the version and exit");
  app.require_subcommand(0, 1);
  app.fallthrough();  // --json and others may also stand behind the command
  app.allow_extras();
  AddGenerateCommand(&app, &options, &chosen);
  AddReplayCommand(&app, &options, &chosen);
  AddChatCommand(&app, &options, &chosen);
  AddScoreCommand(&app, &options, &chosen);
  AddTokenizeCommands(&app, &options, &chosen);
  AddServerCommands(&app, &options, &chosen);
  AddTopCommand(&app, &options, &chosen);
  AddSessionCommands(&app, &options, &chosen);
  AddBenchCommand(&app, &options, &chosen);
  AddTokenCommand(&app, &options, &chosen);
  AddManualCommands(&app, &chosen);
  for (CLI::App* command : app.get_subcommands({})) {
    command->group("Commands");
    const std::string footer = command->get_footer();
    command->footer(absl::StrCat(footer, footer.empty() ? "" : "\n\n",
                                 "--address, --json, --timeout and --wait of every command: "
                                 "mambactl --help"));
  }
  app.footer(kFooter);  // set last: commands made before do not inherit it
  app.get_formatter()->label("SUBCOMMAND", "COMMAND");
  app.get_formatter()->column_width(28);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {
    return app.exit(wish);  // help or version
  } catch (const CLI::ParseError& error) {
    return ReportBadInput(OptionProblem(error.what()));
  }
  const std::vector<std::string> rest = app.remaining(/*recurse=*/true);
  if (!rest.empty()) return JudgeRest(app, rest);
  if (!chosen) return NoCommand(app);
  if (!options.verbose) SilenceLibraries();
  const int code = chosen();
  // What was answered but could not be written is no success.
  errno = 0;
  if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return code;
  std::fprintf(stderr, "mambactl: standard output: %s\n",
               errno != 0 ? std::strerror(errno) : "not all could be written");
  return kExitFailed;
}

}  // namespace
}  // namespace mambad::cli

int main(int argc, char** argv) { return mambad::cli::RunProgram(argc, argv); }
