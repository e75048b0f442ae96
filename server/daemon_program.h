// The daemon as a program: command line -> Daemon -> serve -> drain on SIGTERM. Apart from main.cc,
// so that tests run the same program over an engine of their own.

#ifndef MAMBAD_SERVER_DAEMON_PROGRAM_H_
#define MAMBAD_SERVER_DAEMON_PROGRAM_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/daemon.h"

namespace mambad::server {

// Signals this soon after the first are the same one again: a terminal sends it to a whole group of
// processes, and a program among them may pass on its own.
inline constexpr absl::Duration kOneSignal = absl::Seconds(1);
inline bool IsSameSignal(absl::Time first, absl::Time now) { return now - first < kOneSignal; }

// Engine::Check, or a test's own.
using EngineChecker = std::function<absl::StatusOr<std::vector<std::string>>(const EngineOptions&)>;

// The exit code. 0: drained, or printed what was asked for; 2: a bad option, configuration or model
// file, said in one line on standard error; 3: a second SIGTERM or SIGINT, after kOneSignal, cut
// the drain short; 4: it could serve no longer, for a reason that the log names, and wants to be
// started again. One line on standard output says when it is ready and on which ports. SIGHUP reads
// certificates and tokens again, with a line in the log. Call once, from main, before any thread is
// started.
int RunDaemonProgram(int argument_count, const char* const* arguments, EngineOpener open_engine,
                     const EngineChecker& check_engine);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_DAEMON_PROGRAM_H_
