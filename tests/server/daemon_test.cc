// The daemon's life: loading, serving, draining; health, metrics, ports.

#include "server/daemon.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "engine/steady_time.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/call_environment.h"
#include "server/daemon_program.h"
#include "server/network/transport_settings.h"
#include "tests/server/test_daemon.h"

namespace mambad::server {
namespace {

using grpc::health::v1::HealthCheckResponse;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

HealthCheckResponse::ServingStatus Health(const std::shared_ptr<grpc::Channel>& channel,
                                          const std::string& service) {
  auto stub = grpc::health::v1::Health::NewStub(channel);
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, request, &response);
  return status.ok() ? response.status() : HealthCheckResponse::UNKNOWN;
}

HealthCheckResponse::ServingStatus Health(const TestDaemon& daemon, const std::string& service) {
  return Health(daemon.Channel(), service);
}

TEST(DaemonTest, ServesOnlyWhenTheModelIsLoaded) {
  TestDaemon daemon(TestDaemon::Options(), {}, /*load=*/false);
  for (const char* service : {"", "mambad.v1.Generation"}) {
    EXPECT_EQ(Health(daemon, service), HealthCheckResponse::NOT_SERVING) << service;
  }
  EXPECT_EQ(daemon.Generate(TextRequest("hello")).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext context;
  v1::GetLoadResponse load;
  EXPECT_EQ(daemon.stub().GetLoad(&context, {}, &load).error_code(), grpc::StatusCode::UNAVAILABLE);
  ASSERT_TRUE(daemon.daemon().Load().ok());
  for (const char* service : {"", "mambad.v1.Generation"}) {
    EXPECT_EQ(Health(daemon, service), HealthCheckResponse::SERVING) << service;
  }
  EXPECT_TRUE(daemon.Generate(TextRequest("hello")).status.ok());
}

TEST(DaemonTest, LogsWhatTheEngineWarnsOf) {
  TestDaemon daemon;
  ASSERT_EQ(daemon.engine().warnings().size(), 1);
  EXPECT_THAT(daemon.log(), testing::HasSubstr(daemon.engine().warnings()[0]));
}

TEST(DaemonTest, DrainLetsRunningCallsFinishAndRefusesNewOnes) {
  TestDaemon daemon(TestDaemon::Options(), {.step = absl::Milliseconds(5)});
  grpc::ClientContext context;
  auto reader = daemon.stub().Generate(&context, TextRequest("hello", 100));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  std::string text = message.text();
  auto drained = std::async(std::launch::async, [&] { daemon.daemon().Drain(); });
  // Refused from some moment on, while the stream goes on.
  grpc::StatusCode code = grpc::StatusCode::OK;
  while (code == grpc::StatusCode::OK)
    code = daemon.Generate(TextRequest("x", 1)).status.error_code();
  EXPECT_EQ(code, grpc::StatusCode::UNAVAILABLE);
  while (reader->Read(&message)) text += message.text();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, FakeText("hello", 0, 100));
  drained.get();
}

TEST(DaemonTest, DrainCancelsWhatRemainsAtItsTimeout) {
  ServerOptions options = TestDaemon::Options();
  options.drain_timeout = absl::Milliseconds(200);
  TestDaemon daemon(options, {.step = absl::Milliseconds(1), .context = 1 << 20});
  grpc::ClientContext context;
  auto reader = daemon.stub().Generate(&context, TextRequest("hello", 1 << 19));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  auto drained = std::async(std::launch::async, [&] { daemon.daemon().Drain(); });
  while (reader->Read(&message)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  EXPECT_EQ(message.completion().finish_reason(), v1::CANCELLED);
  drained.get();
}

// Readers are waited for, not only the engine: half a megabyte is more than is on its way.
TEST(DaemonTest, DrainLetsAnswersThatAreMadeBeRead) {
  ServerOptions options = TestDaemon::Options();
  options.max_pending_bytes = 1 << 30;
  options.drain_timeout = absl::Minutes(2);
  TestDaemon daemon(options, {.tokens_per_step = 100, .context = 1 << 20});
  constexpr int kTokens = 1 << 19;
  const auto stub = v1::Generation::NewStub(daemon.Channel(/*stream_window_bytes=*/65536));
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, TextRequest("hello", kTokens));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  std::string text = message.text();
  ASSERT_TRUE(daemon.BecomesIdle());
  auto drained = std::async(std::launch::async, [&] { daemon.daemon().Drain(); });
  absl::SleepFor(absl::Seconds(1));
  while (reader->Read(&message)) text += message.text();
  const grpc::Status status = reader->Finish();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(text, FakeText("hello", 0, kTokens));
  drained.get();
}

// Their calls were accepted, but the engine does not know of them yet.
TEST(DaemonTest, DrainWaitsForTextsThatAreBeingTokenized) {
  ServerOptions options = TestDaemon::Options();
  options.drain_timeout = absl::Minutes(2);
  std::promise<void> begun, go_on;
  const auto wait = [&, going_on = go_on.get_future().share()] {
    begun.set_value();
    going_on.wait();
  };
  TestDaemon daemon(options, {.on_encode = wait});
  auto call =
      std::async(std::launch::async, [&] { return daemon.Generate(TextRequest("hello", 5)); });
  begun.get_future().wait();
  auto drained = std::async(std::launch::async, [&] { daemon.daemon().Drain(); });
  for (v1::GetLoadResponse load; !load.draining();) {
    grpc::ClientContext context;
    ASSERT_TRUE(daemon.stub().GetLoad(&context, {}, &load).ok());
  }
  absl::SleepFor(absl::Milliseconds(200));  // time for an engine that is drained too early
  go_on.set_value();
  const Streamed result = call.get();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text(), FakeText("hello", 0, 5));
  drained.get();
}

// A call that stays open when it is over would hold its request's memory, and a drain.
TEST(DaemonTest, CallsRefusedByTheTextQueueAreGone) {
  ServerOptions options = TestDaemon::Options();
  options.max_waiting_texts = 1;
  options.drain_timeout = absl::Minutes(5);
  TestDaemon daemon(options, {.context = 1 << 20});
  const std::string text(200000, 'x');
  std::atomic<int> refused[3] = {0, 0, 0};
  std::vector<std::thread> threads;
  const absl::Time give_up = absl::Now() + absl::Seconds(60);
  for (int t = 0; t < 9; ++t) {
    threads.emplace_back([&, kind = t % 3] {
      const auto stub = v1::Generation::NewStub(daemon.Channel());
      while (refused[kind] < 5 && absl::Now() < give_up) {
        grpc::ClientContext context;
        v1::GenerateResponse answer;
        v1::TokenizeResponse tokens;
        v1::TokenizeRequest request;
        request.set_text(text);
        grpc::Status status;
        if (kind == 0) status = stub->Tokenize(&context, request, &tokens);
        if (kind == 1) status = stub->GenerateOnce(&context, TextRequest(text, 1), &answer);
        if (kind == 2) {
          const auto reader = stub->Generate(&context, TextRequest(text, 1));
          while (reader->Read(&answer)) {
          }
          status = reader->Finish();
        }
        if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) ++refused[kind];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::atomic<int>& count : refused) ASSERT_GE(count, 5);
  const absl::Time begin = absl::Now();
  daemon.daemon().Drain();
  EXPECT_LT(absl::Now() - begin, absl::Minutes(1));
}

TEST(DaemonTest, TakenPortsAndMissingModelsAreErrors) {
  ServerOptions options = TestDaemon::Options();
  options.metrics_listen = "127.0.0.1:0";
  TestDaemon first(options);
  RequestLog log(LogFormat::kPlain, LogLevel::kError);
  const auto open = [](const EngineOptions& options, StepObserver* observer,
                       const DeviceLostHandler&) { return OpenFakeEngine(options, observer); };
  options = TestDaemon::Options();
  options.listen = absl::StrCat("127.0.0.1:", first.daemon().port());
  EXPECT_THAT(std::string(Daemon::Listen(options, open, &log).status().message()),
              HasSubstr("listen: cannot listen on"));
  options = TestDaemon::Options();
  options.metrics_listen = absl::StrCat("127.0.0.1:", first.daemon().metrics_port());
  EXPECT_THAT(std::string(Daemon::Listen(options, open, &log).status().message()),
              HasSubstr("metrics.listen: cannot"));
  options = TestDaemon::Options();
  options.engine.model = "missing";
  auto daemon = Daemon::Listen(options, open, &log);
  ASSERT_TRUE(daemon.ok());
  EXPECT_EQ((*daemon)->Load().code(), absl::StatusCode::kNotFound);
}

TEST(DaemonTest, ALostDeviceTurnsReadinessOffAndEndsTheProcess) {
  ServerOptions options = TestDaemon::Options();
  options.metrics_listen = "127.0.0.1:0";
  RequestLog log(LogFormat::kPlain, LogLevel::kError);
  DeviceLostHandler lost;
  const auto open = [&lost](const EngineOptions& options, StepObserver* observer,
                            DeviceLostHandler handler) {
    lost = std::move(handler);
    return OpenFakeEngine(options, observer);
  };
  std::string ended;
  std::shared_ptr<grpc::Channel> channel;
  auto health_at_end = HealthCheckResponse::UNKNOWN;
  auto daemon = Daemon::Listen(options, open, &log, {.end = [&](const absl::Status& reason) {
                                 health_at_end = Health(channel, "");
                                 ended = std::string(reason.message());
                               }});
  ASSERT_TRUE(daemon.ok() && (*daemon)->Load().ok());
  channel = grpc::CreateChannel(absl::StrCat("127.0.0.1:", (*daemon)->port()),
                                grpc::InsecureChannelCredentials());
  EXPECT_EQ(Health(channel, ""), HealthCheckResponse::SERVING);
  std::thread([&] { lost("it fell off the bus"); }).join();
  EXPECT_EQ(ended, "the device is lost: it fell off the bus");
  EXPECT_EQ(health_at_end, HealthCheckResponse::NOT_SERVING) << "before the process ends";
}

TEST(DaemonTest, MessagesAboveTheLimitAreRefused) {
  ServerOptions options = TestDaemon::Options();
  options.limits.message_bytes = 2000;
  TestDaemon daemon(options);
  EXPECT_EQ(daemon.Generate(TextRequest(std::string(3000, 'x'))).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(daemon.Generate(TextRequest(std::string(1500, 'x'), 3)).status.ok());
}

TEST(MetricsTest, NamesAndValues) {
  ServerOptions options = TestDaemon::Options();
  options.metrics_listen = "127.0.0.1:0";
  TestDaemon daemon(options);
  daemon.Generate(TextRequest("hello", 10));
  daemon.Generate(TextRequest("hello.", 10));
  v1::GenerateRequest bad = TextRequest("hello", 10);
  bad.mutable_sampling()->set_top_p(2);
  daemon.Generate(bad);
  grpc::ClientContext context;
  v1::TokenizeRequest tokenize;
  tokenize.set_text("hello");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(daemon.stub().Tokenize(&context, tokenize, &tokens).ok());
  ASSERT_TRUE(daemon.BecomesIdle());
  const std::string text = daemon.Metrics();
  for (const char* line : {
           "mambad_requests_running 0",
           "mambad_requests_waiting 0",
           "mambad_request_success_total{finish_reason=\"length\"} 1",
           "mambad_request_success_total{finish_reason=\"eos\"} 1",
           "mambad_request_failure_total{code=\"INVALID_ARGUMENT\"} 1",
           "mambad_prompt_tokens_total 13",
           "mambad_cached_prompt_tokens_total 0",
           "mambad_generation_tokens_total 1",  // 15 and the step that only ended a sample
           "mambad_spec_decode_num_drafts_total 4",
           "mambad_spec_decode_num_draft_tokens_total 8",
           "mambad_spec_decode_num_accepted_tokens_total 4",
           "mambad_spec_decode_num_accepted_tokens_per_pos_total{position=\"1\"} 1",
           "mambad_spec_decode_draft_length 2",
           "mambad_draft_seconds_total",
           "mambad_prefill_seconds_total",
           "mambad_verify_seconds_total",
           "mambad_time_to_first_token_seconds_count 2",
           "mambad_inter_token_latency_seconds_bucket",
           "mambad_time_per_output_token_seconds_count 2",
           "mambad_e2e_request_latency_seconds_count 2",  // the refused one is no latency
           "mambad_grpc_calls_total{code=\"OK\",method=\"Generate\"} 2",
           "mambad_grpc_calls_total{code=\"INVALID_ARGUMENT\",method=\"Generate\"} 1",
           "mambad_grpc_calls_total{code=\"OK\",method=\"Tokenize\"} 1",
           "mambad_connections 1",
           "mambad_connections_accepted_total 1",
           "mambad_connections_refused_total{reason=\"descriptors\"} 0",
           "mambad_log_dropped_lines_total 0",
           "process_cpu_seconds_total ",
           "process_open_fds ",
           "process_max_fds ",
           "process_resident_memory_bytes ",
           "process_virtual_memory_bytes ",
           "process_start_time_seconds ",
           "process_threads ",
           "mambad_request_queue_time_seconds_count 2",
           "mambad_request_prefill_time_seconds_count 2",
           "mambad_step_batch_size_bucket",
           "mambad_step_seconds_bucket{phase=\"target\"",
           "mambad_slots_used 0",
           "mambad_slots 16",
           "mambad_state_bytes{tier=\"slot\"} 0",
           "mambad_state_bytes{tier=\"host\"} 0",
           "mambad_state_bytes{tier=\"disk\"} 0",
           "mambad_state_bytes{tier=\"prefix\"} 2000",
           "mambad_sessions{tier=\"text\"} 0",
           "mambad_sessions{tier=\"slot\"} 0",
           "mambad_sessions{tier=\"host\"} 0",
           "mambad_sessions{tier=\"disk\"} 0",
           "mambad_session_parks_total 7",
           "mambad_session_restores_total 6",
           "mambad_session_evictions_total 5",
           "mambad_session_restore_seconds_count{tier=\"host\"} 0",
           "mambad_session_restore_seconds_count{tier=\"disk\"} 0",
           "mambad_snapshot_bytes_total 4000",
           "mambad_prefix_cache_lookups_total 30",
           "mambad_prefix_cache_hits_total 20",
           "mambad_prefix_cache_tokens_total 10000",
           "mambad_generation_tokens_per_second",
           "mambad_acceptance_rate",
           "mambad_speculation_enabled 1",
           "mambad_self_check_failures_total 0",
           "mambad_device_info{device=\"a script\"} 1",
           "mambad_device_memory_bytes{state=\"used\"} 600",
           "mambad_device_memory_bytes{state=\"free\"} 400",
           "mambad_planned_memory_bytes{part=\"weights\"} 3000",
           "mambad_recorded_rounds 3",
           "mambad_round_recordings_total 5",
           "mambad_model_info{",
           "mambad_build_info{version=",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("vllm:")));
  // No families of libraries.
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "# TYPE ") || line[0] != '#') continue;
    EXPECT_THAT(std::string(line), ::testing::MatchesRegex("# HELP (mambad|process)_.*"));
  }
}

TEST(MetricsEndpointTest, TellsWhetherRequestsAreServed) {
  ServerOptions options = TestDaemon::Options();
  options.metrics_listen = "127.0.0.1:0";
  TestDaemon daemon(options, {}, /*load=*/false);
  EXPECT_THAT(daemon.Fetch("/healthz"), AllOf(HasSubstr("503"), HasSubstr("loading\n")));
  ASSERT_TRUE(daemon.daemon().Load().ok());
  EXPECT_THAT(daemon.Fetch("/healthz"), AllOf(HasSubstr("200 OK"), HasSubstr("ok\n")));
  EXPECT_THAT(daemon.Fetch("/"), AllOf(HasSubstr("/metrics"), HasSubstr("/healthz")));
  EXPECT_THAT(daemon.Fetch("/other"), HasSubstr("404"));
}

TEST(DaemonTest, DrainDoesNotWaitForStreamsThatAreNotOurs) {
  ServerOptions options = TestDaemon::Options();
  options.drain_timeout = absl::Hours(1);
  TestDaemon daemon(options);
  auto stub = grpc::health::v1::Health::NewStub(daemon.Channel());
  grpc::ClientContext context;
  auto watch = stub->Watch(&context, {});
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  // Without the hour.
  auto drained = std::async(std::launch::async, [&] { daemon.daemon().Drain(); });
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  ASSERT_EQ(drained.wait_for(std::chrono::seconds(30)), std::future_status::ready);
}

TEST(OpenCallsTest, WhoComesAfterTheCloseIsNotCounted) {
  OpenCalls calls;
  ASSERT_TRUE(calls.Enter());
  calls.Close();
  EXPECT_FALSE(calls.Enter());
  EXPECT_FALSE(calls.WaitUntilNone(SteadyNow()));
  calls.Leave();
  EXPECT_TRUE(calls.WaitUntilNone(absl::InfiniteFuture()));
  EXPECT_FALSE(calls.Enter());
  EXPECT_TRUE(calls.WaitUntilNone(absl::InfiniteFuture()));
}

TEST(CheckMetadataTest, CountsAsHttp2Does) {
  const std::string most(size_t{kMostMetadataBytes} - 36, 'x');  // and "name", and 32
  EXPECT_TRUE(CheckMetadata({}).ok());
  EXPECT_TRUE(CheckMetadata({{"name", most}}).ok());
  const absl::Status status = CheckMetadata({{"name", most}, {"a", "b"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "the call's metadata has 16418 bytes, allowed at most 16384");
}

TEST(DaemonProgramTest, SignalsOfOneMomentAreOne) {
  const absl::Time first = absl::UnixEpoch();
  EXPECT_TRUE(IsSameSignal(first, first));
  EXPECT_TRUE(IsSameSignal(first, first + absl::Milliseconds(999)));
  EXPECT_FALSE(IsSameSignal(first, first + kOneSignal));
}

TEST(DaemonTest, ConnectionsAreBounded) {
  ServerOptions options = TestDaemon::Options();
  options.max_connections = 2;
  options.max_connections_per_peer = 2;
  TestDaemon daemon(options);  // its own channel connects at the first call
  ASSERT_TRUE(daemon.Generate(TextRequest("hello", 3)).status.ok());
  // A call on a connection of its own, which lives as long as the context that used it.
  const auto ask = [&](grpc::ClientContext* context) {
    v1::GetLoadResponse load;
    return v1::Generation::NewStub(daemon.Channel())->GetLoad(context, {}, &load).error_code();
  };
  auto second = std::make_unique<grpc::ClientContext>();
  ASSERT_EQ(ask(second.get()), grpc::StatusCode::OK);
  {
    grpc::ClientContext third;
    EXPECT_EQ(ask(&third), grpc::StatusCode::UNAVAILABLE);
  }
  EXPECT_TRUE(daemon.Generate(TextRequest("hello", 3)).status.ok());
  second.reset();
  grpc::StatusCode code = grpc::StatusCode::UNAVAILABLE;
  for (int i = 0; i < 300 && code == grpc::StatusCode::UNAVAILABLE; ++i) {
    grpc::ClientContext again;
    absl::SleepFor(absl::Milliseconds(100));
    code = ask(&again);
  }
  EXPECT_EQ(code, grpc::StatusCode::OK);
}

TEST(MetricsTest, RoutersNamesOnRequest) {
  ServerOptions options = TestDaemon::Options();
  options.metrics_listen = "127.0.0.1:0";
  options.vllm_metric_names = true;
  options.model_name = "mine";
  TestDaemon daemon(options);
  ASSERT_TRUE(daemon.Generate(TextRequest("hello", 3)).status.ok());
  ASSERT_TRUE(daemon.BecomesIdle());
  const std::string text = daemon.Metrics();
  // What llm-d's endpoint picker scores by, its autoscaler and its dashboards ask for.
  for (const char* line : {
           "vllm:num_requests_waiting{model_name=\"mine\"} 0\n",
           "vllm:num_requests_running{model_name=\"mine\"} 0\n",
           "vllm:kv_cache_usage_perc{model_name=\"mine\"} 0\n",
           "vllm:prompt_tokens_total{model_name=\"mine\"} 6",
           "vllm:generation_tokens_total{model_name=\"mine\"} 3",
           "vllm:request_success_total{finished_reason=\"length\",model_name=\"mine\"} 1",
           "vllm:time_to_first_token_seconds_count{model_name=\"mine\"} 1",
           "vllm:inter_token_latency_seconds_count{model_name=\"mine\"}",
           "vllm:time_per_output_token_seconds_count{model_name=\"mine\"}",
           "vllm:request_time_per_output_token_seconds_sum{model_name=\"mine\"}",
           "vllm:e2e_request_latency_seconds_count{model_name=\"mine\"} 1",
           "vllm:request_queue_time_seconds_count{model_name=\"mine\"} 1",
           "vllm:request_prefill_time_seconds_count{model_name=\"mine\"} 1",
           "vllm:spec_decode_num_drafts_total{model_name=\"mine\"}",
           "vllm:spec_decode_num_draft_tokens_total{model_name=\"mine\"}",
           "vllm:spec_decode_num_accepted_tokens_total{model_name=\"mine\"}",
           "vllm:spec_decode_num_accepted_tokens_per_pos_total{position=\"0\",model_name=\"mine\"}",
       }) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

}  // namespace
}  // namespace mambad::server
