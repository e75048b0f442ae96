#include "server/cli/connection.h"

#include <grpcpp/create_channel.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/cli/connection_probe.h"

namespace mambad::cli {
namespace {

// Without --timeout and --wait: to connect, then to find out why not.
constexpr absl::Duration kConnectPatience = absl::Seconds(10);
constexpr absl::Duration kProbePatience = absl::Seconds(3);
// Longer than gRPC pauses between attempts (kLongestPause with its jitter).
constexpr absl::Duration kRefreshPatience = absl::Milliseconds(1500);
constexpr int kLongestPause = 1000;  // ms
constexpr absl::Duration kPollInterval = absl::Milliseconds(100);

int Fail(const ClientOptions& options, const std::string& code, const std::string& message) {
  if (options.json) {
    const nlohmann::ordered_json line = {{"error", {{"code", code}, {"message", message}}}};
    std::printf("%s\n",
                line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    std::fprintf(stderr, "mambactl: %s\n", message.c_str());
  }
  return kExitFailed;
}

std::string Sentence(const FieldFault& fault) {
  return fault.flag.empty() ? fault.description : absl::StrCat(fault.flag, ": ", fault.description);
}

int ReportFaults(const ClientOptions& options, const grpc::Status& status,
                 const std::vector<FieldFault>& faults) {
  if (!options.json) {
    for (const FieldFault& fault : faults)
      std::fprintf(stderr, "mambactl: %s\n", Sentence(fault).c_str());
    return kExitFailed;
  }
  nlohmann::ordered_json line = {
      {"error", {{"code", CodeText(status.error_code())}, {"message", Sentence(faults.front())}}}};
  for (const FieldFault& fault : faults) {
    line["error"]["fields"].push_back(
        {{"field", fault.field}, {"flag", fault.flag}, {"description", fault.description}});
  }
  std::printf("%s\n", line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  return kExitFailed;
}

}  // namespace

std::optional<int> Connection::Open() {
  absl::StatusOr<Address> address = ParseAddress(options_.address);
  if (!address.ok()) return ReportBadInput(absl::StrCat("--address: ", address.status().message()));
  address_ = *std::move(address);
  absl::StatusOr<ClientSecurity> security = ReadSecurity(options_, address_.host);
  if (!security.ok()) return ReportBadInput(std::string(security.status().message()));
  security_ = *std::move(security);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  // The address given is the one that is asked, whatever the surroundings say about proxies.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLongestPause);
  channel_ =
      grpc::CreateCustomChannel(address_.Target(), MakeChannelCredentials(security_), arguments);
  stub_ = v1::Generation::NewStub(channel_);

  absl::Status status;
  if (options_.wait_seconds) {
    status = WaitUntilServing(absl::Now() + absl::Seconds(*options_.wait_seconds));
  } else {
    // A share of the time allowed is kept to find out what is wrong.
    const absl::Duration patience =
        options_.timeout_seconds > 0
            ? std::min(kConnectPatience, 0.7 * absl::Seconds(options_.timeout_seconds))
            : kConnectPatience;
    status = Connect(absl::Now() + patience);
    if (!status.ok()) {
      const absl::Duration rest =
          options_.timeout_seconds > 0
              ? std::min(kProbePatience, 0.3 * absl::Seconds(options_.timeout_seconds))
              : kProbePatience;
      status = absl::UnavailableError(Diagnose(rest));
    }
  }
  if (status.ok()) return std::nullopt;
  return Fail(options_, "UNAVAILABLE", std::string(status.message()));
}

absl::Status Connection::Connect(absl::Time end) {
  for (;;) {
    const grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) return absl::OkStatus();
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN)
      return absl::UnavailableError("failed");
    if (!channel_->WaitForStateChange(state, absl::ToChronoTime(end)))
      return absl::UnavailableError("late");
  }
}

absl::Status Connection::WaitUntilServing(absl::Time end) {
  using Check = grpc::health::v1::HealthCheckResponse;
  auto health = grpc::health::v1::Health::NewStub(channel_);
  bool connected = false;
  do {
    connected = Connect(std::min(end, absl::Now() + absl::Seconds(1))).ok();
    if (connected) {
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(std::min(end, absl::Now() + kConnectPatience)));
      Check answer;
      const grpc::Status status = health->Check(&context, {}, &answer);
      const bool has_no_health = status.error_code() == grpc::StatusCode::UNIMPLEMENTED;
      if (has_no_health || (status.ok() && answer.status() == Check::SERVING))
        return absl::OkStatus();
    }
    absl::SleepFor(std::min(kPollInterval, std::max(absl::ZeroDuration(), end - absl::Now())));
  } while (absl::Now() < end);
  const std::string waited = absl::StrFormat("waited %g s: ", *options_.wait_seconds);
  if (!connected) return absl::UnavailableError(absl::StrCat(waited, Diagnose(absl::Seconds(1))));
  return absl::UnavailableError(
      absl::StrCat(waited, "the server at ", address(),
                   " is there but does not serve: it is still loading its model, or draining"));
}

std::string Connection::Diagnose(absl::Duration patience) const {
  return DescribeProbe(ProbeServer(address_, security_, patience), address_, patience);
}

void Connection::Refresh() const {
  const auto end = absl::ToChronoTime(absl::Now() + kRefreshPatience);
  for (;;) {
    const grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY || !channel_->WaitForStateChange(state, end)) return;
  }
}

void Connection::Prepare(grpc::ClientContext* context) const {
  if (!security_.token.empty())
    context->AddMetadata("authorization", absl::StrCat("Bearer ", security_.token));
  if (options_.timeout_seconds <= 0) return;
  context->set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(options_.timeout_seconds)));
}

std::string Connection::ExplainTransport(const grpc::Status& status, bool begun) const {
  const std::string& message = status.error_message();
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE: {
      if (absl::StartsWith(message, "the server is loading"))
        return absl::StrCat(message, ": wait for it with --wait");
      if (absl::StartsWith(message, "the server is draining"))
        return absl::StrCat(message, ": it is about to stop and takes no new calls");
      if (!status.error_details().empty()) return "";
      const Probe probe = ProbeServer(address_, security_, kProbePatience);
      if (probe.result == ProbeResult::kHttp2) {
        return absl::StrCat("the connection to ", address(),
                            " broke off; the server is there, try again");
      }
      return absl::StrCat(begun ? "the answer broke off: " : "",
                          DescribeProbe(probe, address_, kProbePatience));
    }
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      if (options_.timeout_seconds <= 0) return "";
      return absl::StrFormat("%s within %g s (--timeout)",
                             begun ? "the answer was not complete" : "no answer",
                             options_.timeout_seconds);
    case grpc::StatusCode::UNIMPLEMENTED:
      if (!status.error_details().empty()) return "";
      return absl::StrCat("the server at ", address(),
                          " does not know this call: it is of another version, or no mambad");
    case grpc::StatusCode::UNAUTHENTICATED:
      if (!security_.token.empty()) return "";
      return absl::StrCat("the server at ", address(),
                          " wants a token: --token-file FILE, or MAMBAD_TOKEN in the environment");
    case grpc::StatusCode::RESOURCE_EXHAUSTED: {
      // gRPC's words; this client bounds nothing, so they are about the request.
      const size_t open = message.find('(');
      if (!absl::StartsWith(message, "Received message larger than max") ||
          open == std::string::npos) {
        return "";
      }
      return absl::StrCat("the request is larger than the server takes, in bytes ",
                          message.substr(open), "; its limits.message_bytes sets that");
    }
    default:
      return "";
  }
}

int Connection::Report(const grpc::Status& status, const InputNames& names, bool begun) const {
  if (options_.verbose) {
    std::fprintf(stderr, "gRPC: %s: %s\n", CodeText(status.error_code()).c_str(),
                 status.error_message().c_str());
  }
  const std::vector<FieldFault> faults = FieldFaults(status, names);
  if (!faults.empty()) return ReportFaults(options_, status, faults);
  return Fail(options_, CodeText(status.error_code()), Describe(status, names, begun));
}

std::string Connection::Describe(const grpc::Status& status, const InputNames& names,
                                 bool begun) const {
  const std::vector<FieldFault> faults = FieldFaults(status, names);
  if (!faults.empty()) return Sentence(faults.front());
  const std::string words = ExplainTransport(status, begun);
  return words.empty() ? DescribeFailure(status, names) : words;
}

int ReportBadInput(const std::string& message) {
  std::fprintf(stderr, "mambactl: %s\n", message.c_str());
  return kExitBadInput;
}

}  // namespace mambad::cli
