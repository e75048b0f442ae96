#include "server/daemon_program.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/mutex.h"
#include "engine/steady_time.h"
#include "server/command_line.h"
#include "server/library_logs.h"
#include "server/request_log.h"
#include "server/security/credential_files.h"
#include "server/version.h"

namespace mambad::server {
namespace {

constexpr int kExitBadInput = 2;
constexpr int kExitCutShort = 3;
constexpr int kExitFailed = 4;
// For the log's last lines, and for watches of health, where the process ends without ceremony.
constexpr absl::Duration kLastLines = absl::Milliseconds(100);

// What ends the service: SIGTERM and SIGINT, for which a thread of its own waits, or a failure.
// Create before any other thread: it blocks these signals in all.
class EndOfService {
 public:
  EndOfService() {
    signal(SIGPIPE, SIG_IGN);  // a closed log must not end the daemon
    sigemptyset(&signals_);
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals_, number);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  }

  // Until Serving is called, a signal ends the process: nothing would be lost. `log` outlives the
  // process's threads.
  void Watch(RequestLog* log) {
    std::thread([this, log] { Run(log); }).detach();
  }
  void Serving() {
    MutexLock lock(&mutex_);
    serving_ = true;
  }
  void Fail() {
    MutexLock lock(&mutex_);
    failed_ = stopped_ = true;
    news_.NotifyAll();
  }
  // What SIGHUP does from now on; nullptr: nothing.
  void SetReload(std::function<void()> reload) {
    MutexLock lock(&mutex_);
    reload_ = std::move(reload);
  }
  // Whether it is a failure.
  bool Wait() {
    MutexLock lock(&mutex_);
    while (!stopped_) news_.Wait(&mutex_);
    return failed_;
  }

 private:
  // The next signal that means an end.
  void WaitForSignal(RequestLog* log) {
    for (int number = 0;;) {
      sigwait(&signals_, &number);
      if (number != SIGHUP) return;
      log->Info("SIGHUP: certificates and tokens, if any, are read again");
      MutexLock lock(&mutex_);
      if (reload_) reload_();
    }
  }

  void Run(RequestLog* log) {
    WaitForSignal(log);
    const absl::Time first = SteadyNow();
    bool serving = false;
    {
      MutexLock lock(&mutex_);
      serving = serving_;
      stopped_ = true;
      news_.NotifyAll();
    }
    if (serving) {
      do {
        WaitForSignal(log);
      } while (IsSameSignal(first, SteadyNow()));
    }
    log->Info(serving ? "stopped before the drain was over" : "stopped while loading");
    log->Flush(SteadyNow() + kLastLines);
    std::_Exit(serving ? kExitCutShort : 0);
  }

  sigset_t signals_;  // written before any thread, read by the watching one
  Mutex mutex_;
  Condition news_;
  std::function<void()> reload_ ABSL_GUARDED_BY(mutex_);
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;
};

int Refuse(const absl::Status& status) {
  std::string line(status.message());
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  std::fprintf(stderr, "mambad: %s\n", line.c_str());
  return kExitBadInput;
}

// The same where the log's form is known: a log in JSON has no other lines.
int Refuse(const absl::Status& status, LogFormat format, RequestLog* log) {
  if (format == LogFormat::kPlain) return Refuse(status);
  log->Error(status.message());
  log->Flush(SteadyNow() + kLastLines);
  return kExitBadInput;
}

// Ends the process in the middle of what runs: its callers learn of it by their connections.
[[noreturn]] void EndAtOnce(const absl::Status& reason, RequestLog* log) {
  log->Error(reason.message());
  const absl::Time last = SteadyNow() + kLastLines;
  log->Flush(last);
  absl::SleepFor(last - SteadyNow());
  std::_Exit(kExitFailed);
}

// A port's error, with that of a model path that leads nowhere: whoever starts a second daemon by
// mistake wants to know both.
absl::Status WithMissingModel(const absl::Status& status, const std::string& model) {
  if (access(model.c_str(), F_OK) == 0) return status;
  return absl::Status(status.code(), absl::StrCat(status.message(), "; and model: ", model, ": ",
                                                  std::strerror(errno)));
}

std::string WithPort(const std::string& address, int port) {
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

bool IsOpen(const char* key, const std::string& address) {
  HostAndPort parts;
  return !address.empty() && ParseHostAndPort(key, address, &parts).ok() && !parts.is_loopback;
}

void WarnWhenOpen(const ServerOptions& options, RequestLog* log) {
  constexpr char kReach[] = " can be reached from other machines: ";
  const bool has_tls = !options.tls.certificate.empty();
  const bool has_credentials = !options.token_file.empty() || !options.tls.client_ca.empty();
  if (IsOpen("listen", options.listen) && !(has_tls && has_credentials)) {
    log->Warning(absl::StrCat(
        "listen: ", options.listen, kReach, has_tls ? "" : "no TLS, what passes can be read",
        !has_tls && !has_credentials ? "; " : "",
        has_credentials ? "" : "no credentials, everyone there may call", " (allow_insecure)"));
  }
  if (IsOpen("metrics.listen", options.metrics_listen)) {
    log->Warning(absl::StrCat("metrics.listen: ", options.metrics_listen, kReach,
                              "no TLS, nobody is asked who reads it"));
  }
}

}  // namespace

int RunDaemonProgram(int argument_count, const char* const* arguments, EngineOpener open_engine,
                     const EngineChecker& check_engine) {
  LogFormat log_format = LogFormat::kPlain;
  absl::StatusOr<CommandLine> command = ParseCommandLine(argument_count, arguments, &log_format);
  if (!command.ok()) {
    RequestLog log(log_format, LogLevel::kInfo);
    return Refuse(command.status(), log_format, &log);
  }
  if (command->action == CommandLine::Action::kPrint) {
    std::fputs(command->text.c_str(), stdout);
    return 0;
  }
  if (command->action == CommandLine::Action::kCheckConfig) {
    if (absl::Status status = CredentialFiles::Check(command->options); !status.ok())
      return Refuse(status);
    const auto warnings = check_engine(command->options.engine);
    if (!warnings.ok()) return Refuse(warnings.status());
    for (const std::string& warning : *warnings)
      std::fprintf(stderr, "mambad: warning: %s\n", warning.c_str());
    std::puts("configuration is good");
    return 0;
  }
  const ServerOptions& options = command->options;
  // Both are never destroyed: threads may still wait for a signal, or log, when the process ends.
  EndOfService& end = *new EndOfService;
  RequestLog& log = *new RequestLog(options.log_format, options.log_level);
  end.Watch(&log);
  SendLibraryLogsTo(&log);

  absl::StatusOr<std::unique_ptr<Daemon>> daemon =
      Daemon::Listen(options, std::move(open_engine), &log,
                     {.drain =
                          [&](const absl::Status& reason) {
                            log.Error(reason.message());
                            end.Fail();
                          },
                      .end = [&](const absl::Status& reason) { EndAtOnce(reason, &log); }});
  if (!daemon.ok()) {
    return Refuse(WithMissingModel(daemon.status(), options.engine.model), options.log_format,
                  &log);
  }
  WarnWhenOpen(options, &log);
  if (absl::Status status = (*daemon)->Load(); !status.ok()) {
    return Refuse(status, options.log_format, &log);
  }
  end.SetReload([&daemon] { (*daemon)->Reload(); });
  end.Serving();
  std::string ready = absl::StrCat("mambad ", kVersion, " ready: grpc ",
                                   WithPort(options.listen, (*daemon)->port()));
  if (!options.metrics_listen.empty()) {
    absl::StrAppend(&ready, ", metrics ",
                    WithPort(options.metrics_listen, (*daemon)->metrics_port()));
  }
  std::printf("%s\n", ready.c_str());
  std::fflush(stdout);

  const bool failed = end.Wait();
  log.Info("draining");
  (*daemon)->Drain();
  end.SetReload(nullptr);
  daemon->reset();
  log.Info("stopped");
  log.Flush(SteadyNow() + absl::Milliseconds(500));
  return failed ? kExitFailed : 0;
}

}  // namespace mambad::server
