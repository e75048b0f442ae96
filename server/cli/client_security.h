// What the client shows the server, and what it wants to be shown: TLS, certificates, tokens.

#ifndef MAMBAD_SERVER_CLI_CLIENT_SECURITY_H_
#define MAMBAD_SERVER_CLI_CLIENT_SECURITY_H_

#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/cli/client_options.h"

namespace mambad::cli {

// The contents of the files that the options name. PEM.
struct ClientSecurity {
  bool tls = false;
  std::string authorities;  // whose servers are believed; empty: those of the system
  std::string certificate;  // the client's own, with its key; empty: none
  std::string private_key;
  std::string token;  // empty: none
};

// Reads the files. INVALID_ARGUMENT in words for the person who typed the options: a file that
// cannot be read or is no token, a certificate without its key, a token that would go over a
// network without TLS: to `host`, as the address names it.
absl::StatusOr<ClientSecurity> ReadSecurity(const ClientOptions& options, const std::string& host);

std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const ClientSecurity& security);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_CLIENT_SECURITY_H_
