// The client of mambad: one subcommand a call.

#include <cstdio>

#include "server/cli/client.h"
#include "server/version.h"

int main(int argc, char** argv) {
  using namespace mambad::cli;  // NOLINT(build/namespaces): a program of one function
  CLI::App app("mambactl: the client of mambad", "mambactl");
  Connection connection;
  int result = kExitGood;
  app.add_option("--address", connection.address,
                 "host:port of the server (default 127.0.0.1:50051)");
  app.add_flag("--json", connection.json, "One JSON object a message, fields as in the proto");
  app.add_option("--timeout", connection.timeout_seconds,
                 "Seconds a call may take; 0: any (default 0)");
  app.set_version_flag("--version", std::string("mambactl ") + mambad::server::kVersion);
  app.require_subcommand(1);
  app.fallthrough();  // --json and others may also stand after the subcommand
  AddGenerateCommand(&app, &connection, &result);
  AddChatCommand(&app, &connection, &result);
  AddScoreCommand(&app, &connection, &result);
  AddTokenizeCommands(&app, &connection, &result);
  AddServerCommands(&app, &connection, &result);
  AddBenchCommand(&app, &connection, &result);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitGood : kExitBadInput;
  }
  return result;
}
