// Statuses with machine-readable details: absl::Status payloads inside the server,
// google.rpc.Status on the wire.

#ifndef MAMBAD_SERVER_STATUS_DETAILS_H_
#define MAMBAD_SERVER_STATUS_DETAILS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/field_errors.h"
#include "grpcpp/support/status.h"

namespace grpc {
class ServerContextBase;
}

namespace mambad::server {

// What is wrong with a message, as it goes over the wire.
class FieldViolations : public FieldErrors {
 public:
  // OK when empty; else `code` with "field: description" of the first and a google.rpc.BadRequest
  // of all.
  absl::Status ToStatus(absl::StatusCode code = absl::StatusCode::kInvalidArgument) const;
};

// An engine's INVALID_ARGUMENT "field.path: text" with the field's wire name as a
// google.rpc.BadRequest; other statuses and messages without a path come back unchanged.
absl::Status WithFieldDetails(const absl::Status& status);

// The first field that a google.rpc.BadRequest of the status names; empty: none.
std::string FirstField(const absl::Status& status);

// RESOURCE_EXHAUSTED with google.rpc.RetryInfo.
absl::Status ExhaustedError(absl::string_view message, absl::Duration retry_after);

// The status as gRPC sends it: payloads as google.rpc.Status in `grpc-status-details-bin`, and
// `grpc-retry-pushback-ms` in the trailing metadata of `context` when there is a RetryInfo. Call
// before Finish, with the call's own context.
grpc::Status ToGrpcStatus(const absl::Status& status, grpc::ServerContextBase* context);

// "OK", "INVALID_ARGUMENT", ...: for labels and logs.
absl::string_view CodeName(absl::StatusCode code);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_STATUS_DETAILS_H_
