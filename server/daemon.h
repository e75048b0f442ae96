// The running daemon: engine, gRPC server, metrics endpoint, and their order of starting and
// stopping.
//
//   auto daemon = Daemon::Listen(options, OpenEngine, log);   // ports are open, health says
//   NOT_SERVING
//   (*daemon)->Load();                                        // opens the engine, then SERVING
//   (*daemon)->Drain();                                       // NOT_SERVING, running calls finish
//   daemon->reset();                                          // everything is closed

#ifndef MAMBAD_SERVER_DAEMON_H_
#define MAMBAD_SERVER_DAEMON_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "server/request_log.h"
#include "server/server_options.h"

namespace mambad::server {

// What the daemon cannot go on after, and why. Readiness is off by then. From threads of the
// daemon's own.
struct FailureHandlers {
  // It can serve no longer: drain it and end. At most once; must not wait.
  std::function<void(const absl::Status& reason)> drain = nullptr;
  // Nothing that runs will come to an end: the device is lost. Ends the process.
  std::function<void(const absl::Status& reason)> end = nullptr;
};

// Engine::Open, or a test's own.
using EngineOpener = std::function<absl::StatusOr<std::unique_ptr<Engine>>(
    const EngineOptions&, StepObserver*, DeviceLostHandler)>;

// One thread uses it; calls run on threads of its own.
class Daemon {
 public:
  // Reads certificates and tokens and opens both ports. INVALID_ARGUMENT for options and for those
  // files, FAILED_PRECONDITION naming a port that cannot be had. `log` outlives it. Raises the
  // process's limit of open descriptors.
  static absl::StatusOr<std::unique_ptr<Daemon>> Listen(const ServerOptions& options,
                                                        EngineOpener open_engine, RequestLog* log,
                                                        FailureHandlers failures = {});
  virtual ~Daemon() = default;  // without Drain: cancels running calls

  // Opens the engine and turns readiness on. The opener's errors.
  virtual absl::Status Load() = 0;

  // Turns readiness off, refuses new calls with UNAVAILABLE, lets running ones finish until
  // options.drain_timeout, then cancels what remains and closes the ports. Streams of other
  // services (health watches, reflection) and idle connections do not hold it.
  virtual void Drain() = 0;

  // Reads certificates and tokens again, on a thread of its own. From any thread.
  virtual void Reload() = 0;

  virtual int port() const = 0;          // of gRPC
  virtual int metrics_port() const = 0;  // 0: no endpoint
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_DAEMON_H_
