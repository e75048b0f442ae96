#include "server/status_details.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/server_context.h"

namespace mambad::server {
namespace {

constexpr char kBadRequestType[] = "type.googleapis.com/google.rpc.BadRequest";
constexpr char kRetryInfoType[] = "type.googleapis.com/google.rpc.RetryInfo";
// Trailers travel in HTTP/2 headers, which peers bound to 8 KiB or so.
constexpr size_t kLongestMessage = 1024;

bool IsFieldPath(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '_' || c == '.' || c == '[' ||
           c == ']' || c == '-';
  });
}

// Where the engine's name of a field is not the wire's.
absl::string_view WireName(absl::string_view field) {
  if (field == "prompt" || absl::StartsWith(field, "prompt[")) return "input";
  return field;
}

}  // namespace

absl::Status FieldViolations::ToStatus(absl::StatusCode code) const {
  if (empty()) return absl::OkStatus();
  google::rpc::BadRequest details;
  for (const FieldError& error : all()) {
    auto* violation = details.add_field_violations();
    violation->set_field(error.field);
    violation->set_description(error.description);
  }
  absl::Status status(code, FieldErrors::ToStatus().message());
  status.SetPayload(kBadRequestType, absl::Cord(details.SerializeAsString()));
  return status;
}

absl::Status WithFieldDetails(const absl::Status& status) {
  if (status.code() != absl::StatusCode::kInvalidArgument || status.GetPayload(kBadRequestType))
    return status;
  const absl::string_view message = status.message();
  const size_t colon = message.find(':');
  if (colon == absl::string_view::npos || !IsFieldPath(message.substr(0, colon))) return status;
  FieldViolations violations;
  violations.Add(WireName(message.substr(0, colon)),
                 absl::StripLeadingAsciiWhitespace(message.substr(colon + 1)));
  return violations.ToStatus();
}

std::string FirstField(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kBadRequestType);
  google::rpc::BadRequest details;
  if (!payload.has_value() || !details.ParseFromString(std::string(*payload))) return "";
  return details.field_violations_size() > 0 ? details.field_violations(0).field() : "";
}

absl::Status ExhaustedError(absl::string_view message, absl::Duration retry_after) {
  google::rpc::RetryInfo details;
  const absl::Duration delay = std::clamp(retry_after, absl::Milliseconds(1), absl::Hours(1));
  details.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(delay));
  details.mutable_retry_delay()->set_nanos(static_cast<int>(
      absl::ToInt64Nanoseconds(delay - absl::Seconds(absl::ToInt64Seconds(delay)))));
  absl::Status status = absl::ResourceExhaustedError(message);
  status.SetPayload(kRetryInfoType, absl::Cord(details.SerializeAsString()));
  return status;
}

grpc::Status ToGrpcStatus(const absl::Status& status, grpc::ServerContextBase* context) {
  if (status.ok()) return grpc::Status::OK;
  const auto code =
      static_cast<grpc::StatusCode>(status.code());  // the numbers are the same by design
  const std::string message(status.message().substr(0, kLongestMessage));
  google::rpc::Status wire;
  wire.set_code(code);
  wire.set_message(message);
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& payload) {
    auto* detail = wire.add_details();
    detail->set_type_url(std::string(type));
    detail->set_value(std::string(payload));
  });
  if (const auto payload = status.GetPayload(kRetryInfoType)) {
    google::rpc::RetryInfo retry;
    if (retry.ParseFromString(std::string(*payload))) {
      const int64_t milliseconds =
          retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1000000;
      context->AddTrailingMetadata("grpc-retry-pushback-ms",
                                   absl::StrCat(std::max<int64_t>(1, milliseconds)));
    }
  }
  if (wire.details().empty()) return grpc::Status(code, message);
  return grpc::Status(code, message, wire.SerializeAsString());
}

absl::string_view CodeName(absl::StatusCode code) {
  static constexpr absl::string_view kNames[] = {"OK",
                                                 "CANCELLED",
                                                 "UNKNOWN",
                                                 "INVALID_ARGUMENT",
                                                 "DEADLINE_EXCEEDED",
                                                 "NOT_FOUND",
                                                 "ALREADY_EXISTS",
                                                 "PERMISSION_DENIED",
                                                 "RESOURCE_EXHAUSTED",
                                                 "FAILED_PRECONDITION",
                                                 "ABORTED",
                                                 "OUT_OF_RANGE",
                                                 "UNIMPLEMENTED",
                                                 "INTERNAL",
                                                 "UNAVAILABLE",
                                                 "DATA_LOSS",
                                                 "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

}  // namespace mambad::server
