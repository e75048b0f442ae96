// An engine that hangs in its step, one that only waits, and what is told of both.

#include "server/engine_watchdog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <string>

#include "absl/time/clock.h"
#include "engine/steady_time.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/server/test_daemon.h"

namespace mambad::server {
namespace {

using grpc::health::v1::HealthCheckResponse;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Milliseconds(400);

// What holds up the engine's steps, from when it is closed.
class Gate {
 public:
  void Pass() {
    std::unique_lock<std::mutex> lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }
  void Set(bool open) {
    std::lock_guard<std::mutex> lock(mutex_);
    open_ = open;
    opened_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = true;
};

// Opens it before the daemon goes that stands above, whose engine would never end else.
class OpenAtEnd {
 public:
  explicit OpenAtEnd(Gate* gate) : gate_(gate) {}
  ~OpenAtEnd() { gate_->Set(true); }

 private:
  Gate* const gate_;
};

HealthCheckResponse::ServingStatus Health(const TestDaemon& daemon, const std::string& service) {
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  grpc::health::v1::Health::NewStub(daemon.Channel())->Check(&context, request, &response);
  return response.status();
}

// Whether it comes to be so within half a minute.
bool Becomes(const TestDaemon& daemon, HealthCheckResponse::ServingStatus status) {
  const absl::Time end = SteadyNow() + absl::Seconds(30);
  while (Health(daemon, "") != status) {
    if (SteadyNow() > end) return false;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return true;
}

ServerOptions WatchedOptions() {
  ServerOptions options = TestDaemon::Options();
  options.watchdog_timeout = kTimeout;
  options.metrics_listen = "127.0.0.1:0";
  return options;
}

TEST(EngineWatchdogTest, HealthIsOffWhileAStepLastsTooLong) {
  Gate gate;
  TestDaemon daemon(WatchedOptions(), {.on_step = [&] { gate.Pass(); }});
  const OpenAtEnd open_at_end(&gate);
  EXPECT_EQ(Health(daemon, ""), HealthCheckResponse::SERVING);
  gate.Set(false);
  grpc::ClientContext context;
  auto call = daemon.stub().Generate(&context, TextRequest("hello", 3));
  ASSERT_TRUE(Becomes(daemon, HealthCheckResponse::NOT_SERVING));
  EXPECT_EQ(Health(daemon, "mambad.v1.Generation"), HealthCheckResponse::NOT_SERVING);
  EXPECT_THAT(daemon.Fetch("/healthz"), AllOf(HasSubstr("503"), HasSubstr("stalled\n")));
  EXPECT_THAT(daemon.Metrics(), AllOf(HasSubstr("mambad_engine_stalled 1"),
                                      HasSubstr("mambad_engine_stalls_total 1")));
  EXPECT_THAT(daemon.log(), HasSubstr("the engine stands still"));

  gate.Set(true);
  v1::GenerateResponse message;
  while (call->Read(&message)) {
  }
  EXPECT_TRUE(call->Finish().ok());
  ASSERT_TRUE(Becomes(daemon, HealthCheckResponse::SERVING));
  EXPECT_THAT(daemon.Metrics(), AllOf(HasSubstr("mambad_engine_stalled 0"),
                                      HasSubstr("mambad_engine_stalls_total 1")));
  EXPECT_THAT(daemon.log(), HasSubstr("the engine goes on"));
}

TEST(EngineWatchdogTest, ADrainIsNoReturnToHealth) {
  Gate gate;
  ServerOptions options = WatchedOptions();
  TestDaemon daemon(options, {.on_step = [&] { gate.Pass(); }});
  const OpenAtEnd open_at_end(&gate);
  gate.Set(false);
  grpc::ClientContext context;
  auto call = daemon.stub().Generate(&context, TextRequest("hello", 3));
  ASSERT_TRUE(Becomes(daemon, HealthCheckResponse::NOT_SERVING));
  auto health = grpc::health::v1::Health::NewStub(daemon.Channel());
  grpc::ClientContext watch_context;
  auto watch = health->Watch(&watch_context, {});
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  gate.Set(true);
  daemon.daemon().Drain();
  v1::GenerateResponse message;
  while (call->Read(&message)) {
  }
  EXPECT_TRUE(call->Finish().ok());
  // Between the end of the stall and that of the server it may have served again; not at the end.
  while (watch->Read(&response)) {
  }
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
}

TEST(EngineWatchdogTest, WhoWaitsForWorkDoesNotStandStill) {
  TestDaemon daemon(WatchedOptions());
  absl::SleepFor(3 * kTimeout);
  EXPECT_EQ(daemon.engine().CurrentStep(), absl::ZeroDuration());
  EXPECT_THAT(daemon.Metrics(), HasSubstr("mambad_engine_stalls_total 0"));
}

TEST(EngineWatchdogTest, WithoutATimeoutNobodyLooks) {
  ServerOptions options = WatchedOptions();
  options.watchdog_timeout = absl::ZeroDuration();
  TestDaemon daemon(options);
  EXPECT_THAT(daemon.Metrics(), ::testing::Not(HasSubstr("mambad_engine_stall")));
}

}  // namespace
}  // namespace mambad::server
