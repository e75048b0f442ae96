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

using EngineOpener =
    std::function<absl::StatusOr<std::unique_ptr<Engine>>(const EngineOptions&, StepObserver*)>;

// One thread uses it; calls run on threads of its own.
class Daemon {
 public:
  // Opens both ports. INVALID_ARGUMENT for options, FAILED_PRECONDITION naming a port that cannot
  // be had. `log` outlives it.
  static absl::StatusOr<std::unique_ptr<Daemon>> Listen(const ServerOptions& options,
                                                        EngineOpener open_engine, RequestLog* log);
  virtual ~Daemon() = default;  // without Drain: cancels running calls

  // Opens the engine and turns readiness on. The opener's errors.
  virtual absl::Status Load() = 0;

  // Turns readiness off, refuses new calls with UNAVAILABLE, lets running ones finish until
  // options.drain_timeout, then cancels what remains and closes the ports.
  virtual void Drain() = 0;

  virtual int port() const = 0;          // of gRPC
  virtual int metrics_port() const = 0;  // 0: no endpoint
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_DAEMON_H_
