#include "server/daemon.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <prometheus/exposer.h>

#include <exception>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/call_environment.h"
#include "server/generation_service.h"
#include "server/metrics.h"
#include "server/start_report.h"
#include "server/text_worker.h"

namespace mambad::server {
namespace {

// Clients may ping this often, also while nothing runs; a little less is tolerated, because clocks
// and networks are not exact.
constexpr int kLeastPingIntervalMilliseconds = 9000;

void ConfigureNetwork(const ServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.limits.message_bytes));
  builder->SetMaxSendMessageSize(-1);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kLeastPingIntervalMilliseconds);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT,
                              0);  // a taken port is an error, not a second server on it
  if (options.max_connection_age > absl::ZeroDuration()) {
    const int64_t age =
        std::min<int64_t>(absl::ToInt64Milliseconds(options.max_connection_age), INT32_MAX);
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                                static_cast<int>(std::max<int64_t>(age, 1)));
  }
  if (options.memory_quota_bytes > 0) {
    grpc::ResourceQuota quota("mambad");
    quota.Resize(static_cast<size_t>(options.memory_quota_bytes));
    builder->SetResourceQuota(quota);
  }
}

class RunningDaemon final : public Daemon {
 public:
  RunningDaemon(const ServerOptions& options, EngineOpener open_engine, RequestLog* log)
      : options_(options),
        open_engine_(std::move(open_engine)),
        metrics_(std::make_shared<Metrics>(options.vllm_metric_names)),
        text_worker_(std::make_unique<TextWorker>(options.text_threads)),
        environment_{options_, *metrics_, *log, *text_worker_},
        service_(&environment_) {}

  ~RunningDaemon() override { Stop(absl::Now()); }

  absl::Status Open() {
    absl::Status status = OpenMetrics();
    return status.ok() ? OpenServer() : status;
  }

  absl::Status Load() override {
    absl::StatusOr<std::unique_ptr<Engine>> engine = open_engine_(options_.engine, metrics_.get());
    if (!engine.ok()) return engine.status();
    engine_ = *std::move(engine);
    for (const std::string& line : StartReport(*engine_)) environment_.log.Info(line);
    for (const std::string& line : engine_->warnings()) environment_.log.Warning(line);
    metrics_->SetEngine(engine_.get());
    environment_.engine.store(engine_.get());
    SetServing(true);
    return absl::OkStatus();
  }

  void Drain() override { Stop(absl::Now() + options_.drain_timeout); }

  int port() const override { return port_; }
  int metrics_port() const override { return metrics_port_; }

 private:
  absl::Status OpenMetrics() {
    if (options_.metrics_listen.empty()) return absl::OkStatus();
    try {
      exposer_ = std::make_unique<prometheus::Exposer>(options_.metrics_listen, /*num_threads=*/1);
      exposer_->RegisterCollectable(metrics_);
      metrics_port_ = exposer_->GetListeningPorts().at(0);
      return absl::OkStatus();
    } catch (const std::exception&) {
      return absl::FailedPreconditionError(
          absl::StrCat("metrics.listen: cannot listen on ", options_.metrics_listen));
    }
  }

  absl::Status OpenServer() {
    static std::once_flag plugins;  // both are for the whole process
    std::call_once(plugins, [] { grpc::EnableDefaultHealthCheckService(true); });
    if (options_.reflection) {
      static std::once_flag reflection;
      std::call_once(reflection,
                     [] { grpc::reflection::InitProtoReflectionServerBuilderPlugin(); });
    }
    grpc::ServerBuilder builder;
    ConfigureNetwork(options_, &builder);
    builder.AddListeningPort(options_.listen, grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("listen: cannot listen on ", options_.listen));
    }
    SetServing(false);
    return absl::OkStatus();
  }

  void SetServing(bool serving) {
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    health->SetServingStatus(serving);
    health->SetServingStatus(v1::Generation::service_full_name(), serving);
  }

  // Idempotent. Calls live on network threads, in the text worker and in the engine: each is
  // emptied before it is closed.
  void Stop(absl::Time deadline) {
    if (server_ == nullptr || stopped_) return;
    stopped_ = true;
    environment_.draining.store(true);
    SetServing(false);
    if (engine_ != nullptr) engine_->Drain(deadline);
    // Answers that are made may still be on their way to slow readers.
    server_->Shutdown(
        absl::ToChronoTime(std::max(deadline, absl::Now() + absl::Milliseconds(100))));
    text_worker_.reset();
    exposer_.reset();
    metrics_->SetEngine(nullptr);
    engine_.reset();
  }

  // What changes here belongs to the thread that uses the daemon. Calls, on threads of their own,
  // reach only environment_, whose engine is atomic, and what it points to.
  const ServerOptions options_;
  const EngineOpener open_engine_;
  const std::shared_ptr<Metrics> metrics_;
  std::unique_ptr<TextWorker> text_worker_;
  CallEnvironment environment_;
  GenerationService service_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  int metrics_port_ = 0;
  bool stopped_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Listen(const ServerOptions& options,
                                                       EngineOpener open_engine, RequestLog* log) {
  if (absl::Status status = ValidateOptions(options); !status.ok()) return status;
  auto daemon = std::make_unique<RunningDaemon>(options, std::move(open_engine), log);
  if (absl::Status status = daemon->Open(); !status.ok()) return status;
  return daemon;
}

}  // namespace mambad::server
