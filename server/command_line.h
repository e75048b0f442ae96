// The daemon's command line.

#ifndef MAMBAD_SERVER_COMMAND_LINE_H_
#define MAMBAD_SERVER_COMMAND_LINE_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/server_options.h"

namespace mambad::server {

struct CommandLine {
  enum class Action { kServe, kCheckConfig, kPrint };
  Action action = Action::kServe;
  ServerOptions options;  // file, then flags over it; validated. Not with kPrint
  std::string text;       // kPrint: help or version, to standard output
};

// INVALID_ARGUMENT or NOT_FOUND in one line: which flag, or what is wrong in which line of the
// file. `log_format`, unless null: how a refusal to serve is to be written, which settings that
// could be read may say although others are refused; else left as it is.
absl::StatusOr<CommandLine> ParseCommandLine(int argument_count, const char* const* arguments,
                                             LogFormat* log_format = nullptr);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_COMMAND_LINE_H_
