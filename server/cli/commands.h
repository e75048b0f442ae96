// The commands of mambactl.

#ifndef MAMBAD_SERVER_CLI_COMMANDS_H_
#define MAMBAD_SERVER_CLI_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <functional>

#include "server/cli/client_options.h"

namespace mambad::cli {

// What the parsed command line asks for: the exit code of doing it.
using Command = std::function<int()>;

// Each registers one subcommand, or a family; parsing sets `chosen`. Both pointers outlive it.
void AddGenerateCommand(CLI::App* app, const ClientOptions* options, Command* chosen);
void AddReplayCommand(CLI::App* app, const ClientOptions* options, Command* chosen);
void AddChatCommand(CLI::App* app, const ClientOptions* options, Command* chosen);
void AddScoreCommand(CLI::App* app, const ClientOptions* options, Command* chosen);
void AddTokenizeCommands(CLI::App* app, const ClientOptions* options, Command* chosen);
void AddServerCommands(CLI::App* app, const ClientOptions* options,
                       Command* chosen);  // info, load, health
void AddTopCommand(CLI::App* app, const ClientOptions* options, Command* chosen);
void AddSessionCommands(CLI::App* app, const ClientOptions* options,
                        Command* chosen);  // sessions list, get, fork, ...
void AddBenchCommand(CLI::App* app, const ClientOptions* options, Command* chosen);
void AddTokenCommand(CLI::App* app, const ClientOptions* options,
                     Command* chosen);  // token create, list, revoke

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_COMMANDS_H_
