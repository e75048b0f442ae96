#include "server/daemon_program.h"

#include <grpc/support/log.h>
#include <pthread.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/mutex.h"
#include "server/command_line.h"
#include "server/version.h"

namespace mambad::server {
namespace {

constexpr int kExitBadInput = 2;
constexpr int kExitCutShort = 3;

// Waits for SIGTERM and SIGINT in a thread of its own. Create before any other thread: it blocks
// them in all.
class StopSignals {
 public:
  StopSignals() {
    signal(SIGPIPE, SIG_IGN);  // a closed log must not end the daemon
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGTERM);
    sigaddset(&signals_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  }

  // Until Serving is called, a signal ends the process: nothing would be lost.
  void Watch() {
    std::thread([this] { Run(); }).detach();
  }
  void Serving() {
    MutexLock lock(&mutex_);
    serving_ = true;
  }
  void WaitForFirst() {
    MutexLock lock(&mutex_);
    while (!stopped_) news_.Wait(&mutex_);
  }

 private:
  void Run() {
    int number = 0;
    sigwait(&signals_, &number);
    {
      MutexLock lock(&mutex_);
      if (!serving_) std::_Exit(0);
      stopped_ = true;
      news_.NotifyAll();
    }
    sigwait(&signals_, &number);
    std::_Exit(kExitCutShort);
  }

  sigset_t signals_;  // written before any thread, read by the watching one
  Mutex mutex_;
  Condition news_;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

int Refuse(const absl::Status& status) {
  std::string line(status.message());
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  std::fprintf(stderr, "mambad: %s\n", line.c_str());
  return kExitBadInput;
}

std::string WithPort(const std::string& address, int port) {
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

void WarnWhenOpen(const ServerOptions& options, RequestLog* log) {
  for (const auto& [key, address] :
       {std::pair<const char*, const std::string&>{"listen", options.listen},
        {"metrics.listen", options.metrics_listen}}) {
    HostAndPort parts;
    if (!address.empty() && ParseHostAndPort(key, address, &parts).ok() && !parts.is_loopback) {
      log->Warning(
          absl::StrCat(key, ": ", address,
                       " can be reached from other machines, and nobody is asked who he is"));
    }
  }
}

}  // namespace

int RunDaemonProgram(int argument_count, const char* const* arguments, EngineOpener open_engine,
                     const EngineChecker& check_engine) {
  absl::StatusOr<CommandLine> command = ParseCommandLine(argument_count, arguments);
  if (!command.ok()) return Refuse(command.status());
  if (command->action == CommandLine::Action::kPrint) {
    std::fputs(command->text.c_str(), stdout);
    return 0;
  }
  if (command->action == CommandLine::Action::kCheckConfig) {
    const absl::Status status = check_engine(command->options.engine);
    if (!status.ok()) return Refuse(status);
    std::puts("configuration is good");
    return 0;
  }
  const ServerOptions& options = command->options;
  // Never destroyed: its thread may still be waiting when the process ends.
  StopSignals& signals = *new StopSignals;
  signals.Watch();
  RequestLog log(options.log_format, options.log_level);
  WarnWhenOpen(options, &log);
  // gRPC's own lines about peers and sockets: what matters of them comes back as statuses.
  gpr_set_log_function([](gpr_log_func_args*) {});

  absl::StatusOr<std::unique_ptr<Daemon>> daemon =
      Daemon::Listen(options, std::move(open_engine), &log);
  if (!daemon.ok()) return Refuse(daemon.status());
  if (absl::Status status = (*daemon)->Load(); !status.ok()) return Refuse(status);
  signals.Serving();
  std::string ready = absl::StrCat("mambad ", kVersion, " ready: grpc ",
                                   WithPort(options.listen, (*daemon)->port()));
  if (!options.metrics_listen.empty()) {
    absl::StrAppend(&ready, ", metrics ",
                    WithPort(options.metrics_listen, (*daemon)->metrics_port()));
  }
  std::printf("%s\n", ready.c_str());
  std::fflush(stdout);

  signals.WaitForFirst();
  log.Info("draining");
  (*daemon)->Drain();
  daemon->reset();
  log.Info("stopped");
  return 0;
}

}  // namespace mambad::server
