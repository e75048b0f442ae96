// A daemon over the fake engine on a free loopback port, and a client of it.

#ifndef MAMBAD_TESTS_SERVER_TEST_DAEMON_H_
#define MAMBAD_TESTS_SERVER_TEST_DAEMON_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <spdlog/sinks/ringbuffer_sink.h>

#include <memory>
#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "mambad/v1/generation.grpc.pb.h"
#include "server/daemon.h"
#include "tests/server/fake_engine.h"

namespace mambad::server {

// Everything that one streaming call brought.
struct Streamed {
  std::vector<v1::GenerateResponse> messages;
  grpc::Status status;
  std::string text(int index = 0) const;
  const v1::Completion* completion(int index = 0) const;  // nullptr: none came
};

class TestDaemon {
 public:
  // Options that tests want: a free port, no metrics endpoint, a model name.
  static ServerOptions Options();

  explicit TestDaemon(ServerOptions options = Options(), FakeOptions fake = {}, bool load = true);

  Daemon& daemon() { return *daemon_; }
  const Engine& engine() const { return *engine_; }  // after Load, until Drain
  std::shared_ptr<grpc::Channel> Channel(int stream_window_bytes = 0) const;
  v1::Generation::Stub& stub() { return *stub_; }
  Streamed Generate(const v1::GenerateRequest& request);
  // What was logged so far, while others go on logging.
  std::string log() const;
  // The answer to GET, headers included.
  std::string Fetch(const std::string& path) const;
  std::string Metrics() const { return Fetch("/metrics"); }
  // Waits (at most 10 s) until nothing runs or waits; whether that came true.
  bool BecomesIdle();

 private:
  std::shared_ptr<spdlog::sinks::ringbuffer_sink_mt> log_lines_;
  std::unique_ptr<RequestLog> log_;
  Engine* engine_ = nullptr;
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<v1::Generation::Stub> stub_;
};

v1::GenerateRequest TextRequest(const std::string& prompt, int max_tokens = 10);

// The first violation's "field: description"; empty without details.
std::string Violation(const grpc::Status& status);

}  // namespace mambad::server

#endif  // MAMBAD_TESTS_SERVER_TEST_DAEMON_H_
