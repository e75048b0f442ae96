// The connection of one command: opening it with words for whatever goes wrong, and reporting how
// its calls fail.

#ifndef MAMBAD_SERVER_CLI_CONNECTION_H_
#define MAMBAD_SERVER_CLI_CONNECTION_H_

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "mambad/v1/generation.grpc.pb.h"
#include "server/cli/address.h"
#include "server/cli/call_failure.h"
#include "server/cli/client_options.h"
#include "server/cli/client_security.h"

namespace mambad::cli {

class Connection {
 public:
  explicit Connection(const ClientOptions& options) : options_(options) {}  // options outlive it

  // Connects and, with --wait, waits until the server says that it serves. Nothing when that is
  // done; else the exit code, and the reason has been reported. Blocks for at most the timeout or
  // the time to wait; without either for some 13 s.
  std::optional<int> Open();

  // After Open.
  v1::Generation::Stub* stub() const { return stub_.get(); }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  const ClientOptions& options() const { return options_; }
  std::string address() const { return address_.Text(); }

  // Before a call that comes long after Open: connects again where the connection was lost
  // meanwhile. Blocks for a second or two at most; whether it came about, the call will tell.
  void Refresh() const;

  // Sets the deadline and shows the token, if any.
  void Prepare(grpc::ClientContext* context) const;

  // How a call failed, on standard error, or with --json as one object on standard output;
  // kExitFailed. `begun`: a part of the answer had come.
  int Report(const grpc::Status& status, const InputNames& names, bool begun = false) const;
  // The same as one sentence.
  std::string Describe(const grpc::Status& status, const InputNames& names, bool begun) const;

 private:
  absl::Status Connect(absl::Time end);
  absl::Status WaitUntilServing(absl::Time end);
  // What a probe of at most `patience` finds, in words.
  std::string Diagnose(absl::Duration patience) const;
  // A sentence of ours for the failures that are no answer of the server's; else empty.
  std::string ExplainTransport(const grpc::Status& status, bool begun) const;

  const ClientOptions& options_;
  Address address_;
  ClientSecurity security_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
};

// A sentence about a wrong flag or file on standard error; kExitBadInput.
int ReportBadInput(const std::string& message);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_CONNECTION_H_
