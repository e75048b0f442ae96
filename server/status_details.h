// Statuses with machine-readable details: absl::Status payloads inside the server,
// google.rpc.Status on the wire.

#ifndef MAMBAD_SERVER_STATUS_DETAILS_H_
#define MAMBAD_SERVER_STATUS_DETAILS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "grpcpp/support/status.h"

namespace grpc {
class ServerContextBase;
}

namespace mambad::server {

// Collects what is wrong with a request, so that one answer tells all of it (up to a bound).
class FieldViolations {
 public:
  void Add(absl::string_view field, absl::string_view description);

  // "VALUE given, allowed LEAST to MOST" unless value is inside. NaN is outside.
  template <typename Number>
  void CheckRange(absl::string_view field, Number value, Number least, Number most) {
    if (!(value >= least && value <= most)) {
      Add(field, absl::StrCat(value, " given, allowed ", least, " to ", most));
    }
  }

  bool empty() const { return violations_.empty(); }
  // OK when empty; else `code` with "field: description" of the first and a google.rpc.BadRequest
  // of all.
  absl::Status ToStatus(absl::StatusCode code = absl::StatusCode::kInvalidArgument) const;

 private:
  std::vector<std::pair<std::string, std::string>> violations_;
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
