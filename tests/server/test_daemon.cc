#include "tests/server/test_daemon.h"

#include <arpa/inet.h>
#include <grpcpp/create_channel.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"

namespace mambad::server {
namespace {

constexpr size_t kMostLines = 10000;  // of a log that are kept

}  // namespace

std::string Streamed::text(int index) const {
  std::string text;
  for (const v1::GenerateResponse& message : messages) {
    if (message.index() == index) text += message.text();
  }
  return text;
}

const v1::Completion* Streamed::completion(int index) const {
  for (const v1::GenerateResponse& message : messages) {
    if (message.index() == index && message.has_completion()) return &message.completion();
  }
  return nullptr;
}

ServerOptions TestDaemon::Options() {
  ServerOptions options;
  options.engine.model = "fake";
  options.listen = "127.0.0.1:0";
  options.metrics_listen = "";
  return options;
}

TestDaemon::TestDaemon(ServerOptions options, FakeOptions fake, bool load) {
  log_lines_ = std::make_shared<spdlog::sinks::ringbuffer_sink_mt>(kMostLines);
  auto logger = std::make_shared<spdlog::logger>("test", log_lines_);
  logger->set_pattern("%v");
  log_ = std::make_unique<RequestLog>(options.log_format, logger);
  auto opener = [this, fake](const EngineOptions& engine_options, StepObserver* observer,
                             const DeviceLostHandler&) {
    auto engine = OpenFakeEngine(engine_options, observer, fake);
    if (engine.ok()) engine_ = engine->get();
    return engine;
  };
  auto daemon = Daemon::Listen(options, opener, log_.get());
  if (!daemon.ok()) std::abort();
  daemon_ = *std::move(daemon);
  if (load && !daemon_->Load().ok()) std::abort();
  stub_ = v1::Generation::NewStub(Channel());
}

std::string TestDaemon::log() const {
  return absl::StrJoin(log_lines_->last_formatted(kMostLines), "");
}

std::shared_ptr<grpc::Channel> TestDaemon::Channel(int stream_window_bytes) const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  if (stream_window_bytes > 0) {
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, stream_window_bytes);
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // or the window grows by itself
  }
  return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", daemon_->port()),
                                   grpc::InsecureChannelCredentials(), arguments);
}

Streamed TestDaemon::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);
  Streamed result;
  for (v1::GenerateResponse message; reader->Read(&message);) result.messages.push_back(message);
  result.status = reader->Finish();
  return result;
}

std::string TestDaemon::Fetch(const std::string& path) const {
  const int socket_number = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(daemon_->metrics_port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string text;
  if (connect(socket_number, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    const std::string request = absl::StrCat("GET ", path, " HTTP/1.0\r\n\r\n");
    if (write(socket_number, request.data(), request.size()) > 0) {
      char buffer[4096];
      for (ssize_t size; (size = read(socket_number, buffer, sizeof(buffer))) > 0;) {
        text.append(buffer, static_cast<size_t>(size));
      }
    }
  }
  close(socket_number);
  return text;
}

bool TestDaemon::BecomesIdle() {
  for (int i = 0; i < 1000; ++i) {
    const EngineStats stats = engine_->Stats();
    if (stats.running == 0 && stats.waiting == 0 && stats.slots_used == 0) return true;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return false;
}

v1::GenerateRequest TextRequest(const std::string& prompt, int max_tokens) {
  v1::GenerateRequest request;
  request.set_text(prompt);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

std::string Violation(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::BadRequest bad_request;
  if (!details.ParseFromString(status.error_details())) return "";
  for (const auto& detail : details.details()) {
    if (detail.UnpackTo(&bad_request) && bad_request.field_violations_size() > 0) {
      const auto& violation = bad_request.field_violations(0);
      return absl::StrCat(violation.field(), ": ", violation.description());
    }
  }
  return "";
}

}  // namespace mambad::server
