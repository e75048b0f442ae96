#include "server/daemon.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/steady_time.h"
#include "server/call_environment.h"
#include "server/engine_watchdog.h"
#include "server/generation_service.h"
#include "server/metrics.h"
#include "server/network/connection_acceptor.h"
#include "server/network/http_endpoint.h"
#include "server/network/listener.h"
#include "server/network/transport_settings.h"
#include "server/page/status_page.h"
#include "server/process_families.h"
#include "server/process_limits.h"
#include "server/security/credential_files.h"
#include "server/security/server_credentials.h"
#include "server/sessions_service.h"
#include "server/start_report.h"
#include "server/text_worker.h"
#include "server/vllm/engine_service.h"

namespace mambad::server {
namespace {

// Time for goodbyes once our own calls have ended: watches of health learn what it is now, clients
// that the connection closes.
constexpr absl::Duration kGoodbye = absl::Milliseconds(200);
// Answers that are made may still be on their way when a drain is cut short.
constexpr absl::Duration kLastWrites = absl::Milliseconds(100);

constexpr char kIndexPage[] =
    "mambad\n\n"
    "/metrics  Prometheus' text format\n"
    "/healthz  200 while requests are served, 503 while not\n";

TextWorkerOptions TextOptions(const ServerOptions& options) {
  TextWorkerOptions result;
  result.threads = options.text_threads;
  result.long_texts = {options.max_waiting_texts, options.max_waiting_text_bytes};
  result.short_texts = {options.max_waiting_texts, options.max_waiting_text_bytes / 4};
  return result;
}

class RunningDaemon final : public Daemon {
 public:
  RunningDaemon(const ServerOptions& options, EngineOpener open_engine, RequestLog* log,
                FailureHandlers failures)
      : options_(options),
        open_engine_(std::move(open_engine)),
        failures_(std::move(failures)),
        metrics_(options.vllm_metric_names, options.model_name),
        text_worker_(std::make_unique<TextWorker>(
            TextOptions(options),
            [this](absl::Duration waited) { metrics_.RecordTextQueue(waited); })),
        environment_{options_, metrics_, *log, *text_worker_},
        service_(&environment_),
        sessions_service_(&environment_),
        vllm_service_(&environment_) {}

  ~RunningDaemon() override { Stop(absl::ZeroDuration()); }

  absl::Status Open() {
    absl::StatusOr<std::unique_ptr<CredentialFiles>> credentials =
        CredentialFiles::Open(options_, &environment_.log);
    if (!credentials.ok()) return credentials.status();
    credentials_ = *std::move(credentials);
    environment_.authenticator = credentials_->authenticator();
    const int64_t descriptors = RaiseDescriptorLimit();
    absl::StatusOr<Listener> listener = server::Listen("listen", "--listen", options_.listen);
    if (!listener.ok()) return listener.status();
    port_ = listener->port;
    Listener metrics_listener;
    if (!options_.metrics_listen.empty()) {
      absl::StatusOr<Listener> opened =
          server::Listen("metrics.listen", "--metrics", options_.metrics_listen);
      if (!opened.ok()) return opened.status();
      metrics_listener = *std::move(opened);
      metrics_port_ = metrics_listener.port;
    }
    if (absl::Status status = OpenServer(); !status.ok()) return status;
    Accept(*std::move(listener), descriptors);
    OpenMetrics(std::move(metrics_listener));
    credentials_->Watch();
    return absl::OkStatus();
  }

  absl::Status Load() override {
    absl::StatusOr<std::unique_ptr<Engine>> engine =
        open_engine_(options_.engine, &metrics_, [this](std::string_view words) {
          SetState(State::kFailed);
          if (!failures_.end) return;
          failures_.end(
              absl::InternalError(absl::StrCat("the device is lost: ", std::string(words))));
        });
    if (!engine.ok()) return engine.status();
    engine_ = *std::move(engine);
    credentials_->Report();
    if (page_ != nullptr) {
      environment_.log.Info(absl::StrCat("page: / of the metrics' port ", metrics_port_,
                                         page_->takes_prompts() ? ", with a box for prompts" : ""));
    }
    for (const std::string& line : StartReport(*engine_)) environment_.log.Info(line);
    for (const std::string& line : StartWarnings(*engine_)) environment_.log.Warning(line);
    metrics_.SetEngine(engine_.get(), text_worker_.get());
    environment_.engine.store(engine_.get());
    SetState(State::kServing);
    if (options_.watchdog_timeout > absl::ZeroDuration()) WatchEngine();
    return absl::OkStatus();
  }

  void Drain() override { Stop(options_.drain_timeout); }

  void Reload() override { credentials_->Reload(); }

  int port() const override { return port_; }
  int metrics_port() const override { return metrics_port_; }

 private:
  enum class State { kLoading, kServing, kStalled, kDraining, kFailed };

  absl::Status OpenServer() {
    static std::once_flag plugins;  // both are for the whole process
    std::call_once(plugins, [] { grpc::EnableDefaultHealthCheckService(true); });
    if (options_.reflection) {
      static std::once_flag reflection;
      std::call_once(reflection,
                     [] { grpc::reflection::InitProtoReflectionServerBuilderPlugin(); });
    }
    grpc::ServerBuilder builder;
    SetTransport(options_, &builder);
    using Kind = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
    connections_ = builder.experimental().AddExternalConnectionAcceptor(
        Kind::FROM_FD,
        MakeServerCredentials(credentials_->certificate(), credentials_->authenticator()));
    builder.RegisterService(&service_);
    builder.RegisterService(&sessions_service_);
    builder.RegisterService(&vllm_service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::InternalError("gRPC's server could not be started");
    SetState(State::kLoading);
    return absl::OkStatus();
  }

  void Accept(Listener listener, int64_t descriptors) {
    const ConnectionLimits limits = ChooseConnectionLimits(options_, descriptors);
    if (limits.connections < options_.max_connections) {
      environment_.log.Warning(absl::StrCat(
          "network.max_connections: ", options_.max_connections, " given, ", limits.connections,
          " used: the process may open ", descriptors, " descriptors (ulimit -n)"));
    }
    acceptor_ = std::make_unique<ConnectionAcceptor>(
        std::move(listener), limits,
        [this](int descriptor) {
          grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
          connection.fd = descriptor;
          connections_->HandleNewConnection(&connection);
        },
        [this](const absl::Status& reason) {
          SetState(State::kFailed);
          if (failures_.drain) failures_.drain(reason);
        });
  }

  void OpenMetrics(Listener listener) {
    if (listener.sockets.empty()) return;
    metrics_.AddSource([this](MetricFamilies* families) {
      AddConnectionFamilies(acceptor_->counts(), families);
      AddProcessFamilies(ReadProcessUsage(), families);
      credentials_->AddFamilies(families);
      environment_.named_answers.AddFamilies(families);
      MutexLock lock(&watchdog_mutex_);
      if (watchdog_ != nullptr) watchdog_->AddFamilies(families);
      families->Counter("mambad_log_dropped_lines_total",
                        "Lines of the log that nobody read in time",
                        static_cast<double>(environment_.log.dropped_lines()));
    });
    HttpEndpoint::Limits limits;
    OpenPage();
    if (options_.metrics_page == MetricsPage::kPrompt) limits.body_bytes = kMostPromptBytes;
    endpoint_ = std::make_unique<HttpEndpoint>(
        std::move(listener), limits,
        [this](const HttpRequest& request) { return AnswerTo(request); });
  }

  void OpenPage() {
    if (options_.metrics_page == MetricsPage::kNone) return;
    std::unique_ptr<PromptBox> box;
    if (options_.metrics_page == MetricsPage::kPrompt)
      box = std::make_unique<PromptBox>(server_->InProcessChannel(grpc::ChannelArguments()));
    HostAndPort place;
    if (!ParseHostAndPort("metrics.listen", options_.metrics_listen, &place).ok()) return;
    page_ = std::make_unique<StatusPage>(place.host, std::move(box), !options_.token_file.empty());
  }

  HttpAnswer AnswerTo(const HttpRequest& request) const {
    if (page_ != nullptr) {
      if (std::optional<HttpAnswer> answer = page_->Answer(request)) return *std::move(answer);
    }
    const std::string& path = request.path;
    if (request.method == "POST")
      return {405, "text/plain", "only GET and HEAD are served here\n", {{"Allow", "GET, HEAD"}}};
    if (path == "/") return {200, "text/plain; charset=utf-8", kIndexPage};
    if (path == "/metrics") {
      return {200, "text/plain; version=0.0.4; charset=utf-8", metrics_.Scrape()};
    }
    if (path != "/healthz") return {404, "text/plain", "here are /metrics and /healthz\n"};
    static constexpr const char* kWords[] = {"loading", "ok", "stalled", "draining", "failed"};
    const State state = state_.load();
    return {state == State::kServing ? 200 : 503, "text/plain",
            absl::StrCat(kWords[static_cast<int>(state)], "\n")};
  }

  void WatchEngine() {
    auto watchdog = std::make_unique<EngineWatchdog>(
        *engine_, options_.watchdog_timeout,
        [this](bool stalled, absl::Duration step) { OnStall(stalled, step); });
    MutexLock lock(&watchdog_mutex_);
    watchdog_ = std::move(watchdog);
  }

  void StopWatching() {
    std::unique_ptr<EngineWatchdog> watchdog;
    {
      MutexLock lock(&watchdog_mutex_);
      watchdog = std::move(watchdog_);
    }
  }

  void OnStall(bool stalled, absl::Duration step) {
    if (stalled) {
      environment_.log.Error(absl::StrCat("the engine stands still: its step has lasted ",
                                          absl::FormatDuration(absl::Trunc(step, absl::Seconds(1))),
                                          " so far; health says NOT_SERVING until it ends"));
    } else {
      environment_.log.Warning("the engine goes on: health says SERVING again");
    }
    MutexLock lock(&state_mutex_);
    const State expected = stalled ? State::kServing : State::kStalled;
    if (state_.load() == expected) Tell(stalled ? State::kStalled : State::kServing);
  }

  void SetState(State state) {
    MutexLock lock(&state_mutex_);
    Tell(state);
  }

  void Tell(State state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_mutex_) {
    state_.store(state);
    environment_.serving.store(state == State::kServing);
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    health->SetServingStatus(state == State::kServing);
    for (const char* service : {v1::Generation::service_full_name(),
                                v1::Sessions::service_full_name(), VllmWire::service_full_name()}) {
      health->SetServingStatus(service, state == State::kServing);
    }
  }

  // Idempotent. Calls live on network threads, in the text worker and in the engine: each is
  // emptied before it is closed.
  void Stop(absl::Duration patience) {
    if (server_ == nullptr || stopped_) return;
    stopped_ = true;
    StopWatching();
    const absl::Time deadline = SteadyNow() + patience;
    environment_.draining.store(true);
    environment_.open_calls.Close();  // after that: what is not counted is refused
    SetState(State::kDraining);
    text_worker_->Drain(deadline);  // what comes of it goes on in the engine
    if (engine_ != nullptr) engine_->Drain(deadline);
    environment_.open_calls.WaitUntilNone(std::max(deadline, SteadyNow() + kLastWrites));
    acceptor_->Stop();
    server_->Shutdown(absl::ToChronoTime(absl::Now() + kGoodbye));
    credentials_->Stop();  // it may hold the last share of a call
    endpoint_.reset();
    page_.reset();
    metrics_.SetEngine(nullptr, nullptr);
    text_worker_.reset();
    engine_.reset();
  }

  // What changes here belongs to the thread that uses the daemon. Calls, on threads of their own,
  // reach only environment_, whose engine is atomic, and what it points to; the acceptor's thread
  // and the endpoint's reach what their lambdas name, which is written before they start.
  const ServerOptions options_;
  const EngineOpener open_engine_;
  const FailureHandlers failures_;
  Metrics metrics_;
  std::unique_ptr<TextWorker> text_worker_;
  std::unique_ptr<CredentialFiles> credentials_;  // outlives the calls and gRPC's server
  CallEnvironment environment_;
  GenerationService service_;
  SessionsService sessions_service_;
  VllmEngineService vllm_service_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> connections_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<ConnectionAcceptor> acceptor_;
  std::unique_ptr<StatusPage> page_;  // the endpoint's thread reads it
  std::unique_ptr<HttpEndpoint> endpoint_;
  Mutex watchdog_mutex_;
  std::unique_ptr<EngineWatchdog> watchdog_ ABSL_GUARDED_BY(watchdog_mutex_);
  Mutex state_mutex_;                          // held while health is told what is in state_
  std::atomic<State> state_{State::kLoading};  // read by any thread
  int port_ = 0;
  int metrics_port_ = 0;
  bool stopped_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Listen(const ServerOptions& options,
                                                       EngineOpener open_engine, RequestLog* log,
                                                       FailureHandlers failures) {
  if (absl::Status status = ValidateOptions(options); !status.ok()) return status;
  auto daemon =
      std::make_unique<RunningDaemon>(options, std::move(open_engine), log, std::move(failures));
  if (absl::Status status = daemon->Open(); !status.ok()) return status;
  return daemon;
}

}  // namespace mambad::server
