// What holds for every command, and the exit codes.

#ifndef MAMBAD_SERVER_CLI_CLIENT_OPTIONS_H_
#define MAMBAD_SERVER_CLI_CLIENT_OPTIONS_H_

#include <optional>
#include <string>

namespace mambad::cli {

inline constexpr int kExitGood = 0;
inline constexpr int kExitFailed = 1;         // no server, or the call failed
inline constexpr int kExitBadInput = 2;       // a flag or a file is wrong; nothing was sent
inline constexpr int kExitDiffers = 3;        // replay: another answer than was recorded
inline constexpr int kExitInterrupted = 130;  // Ctrl-C

struct ClientOptions {
  std::string address = "127.0.0.1:50051";  // as typed
  bool json = false;
  bool verbose = false;                // gRPC's own log, and its words in errors
  double timeout_seconds = 0;          // of each call; 0: none
  std::optional<double> wait_seconds;  // for the server to be ready, before the first call
  // Who the server must be, and who the client is: client_security.h. Files; empty: none.
  bool tls = false;
  std::string ca, certificate, private_key, token_file;
  std::string token;  // of the surroundings; the file wins
  // Of the terminal, found out once at the start:
  bool shows_text = false;   // standard output is one: nothing in an answer may steer it
  bool hints = false;        // standard error is one: a person is there to read hints
  bool dims_status = false;  // and shows dim text
  bool edits_lines = false;  // and standard input too, and its cursor can be moved
};

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_CLIENT_OPTIONS_H_
