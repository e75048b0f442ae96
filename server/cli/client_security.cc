#include "server/cli/client_security.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/cli/whole_file.h"
#include "server/security/token.h"

namespace mambad::cli {
namespace {

bool IsThisMachine(const std::string& host) {
  in_addr four{};
  in6_addr six{};
  if (inet_pton(AF_INET, host.c_str(), &four) == 1) return (ntohl(four.s_addr) >> 24) == 127;
  if (inet_pton(AF_INET6, host.c_str(), &six) == 1) return IN6_IS_ADDR_LOOPBACK(&six);
  return host == "localhost";
}

absl::Status RefuseFlag(const char* flag, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": ", problem));
}

absl::Status ReadPem(const char* flag, const std::string& path, std::string* text) {
  if (path.empty()) return absl::OkStatus();
  const std::string problem = ReadWholeFile(path, text);
  if (!problem.empty()) return RefuseFlag(flag, problem);
  if (text->find("-----BEGIN ") == std::string::npos)
    return RefuseFlag(flag, absl::StrCat(path, ": expected a file in PEM"));
  return absl::OkStatus();
}

absl::Status ReadToken(const ClientOptions& options, std::string* token) {
  const bool has_file = !options.token_file.empty();
  if (has_file) {
    const std::string problem = ReadWholeFile(options.token_file, token);
    if (!problem.empty()) return RefuseFlag("--token-file", problem);
  } else {
    *token = options.token;
  }
  *token = std::string(absl::StripAsciiWhitespace(*token));
  if (token->empty() && !has_file) return absl::OkStatus();
  if (const auto parts = server::SplitToken(*token); !parts.ok()) {
    return RefuseFlag(has_file ? "--token-file" : "MAMBAD_TOKEN",
                      absl::StrCat(has_file ? options.token_file + ": " : "",
                                   parts.status().message(), " and nothing else"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ClientSecurity> ReadSecurity(const ClientOptions& options, const std::string& host) {
  ClientSecurity security;
  security.tls = options.tls || !options.ca.empty() || !options.certificate.empty() ||
                 !options.private_key.empty();
  if (options.certificate.empty() != options.private_key.empty()) {
    return options.certificate.empty()
               ? RefuseFlag("--key", "needs --cert, the certificate of the key")
               : RefuseFlag("--cert", "needs --key, its private key");
  }
  absl::Status status = ReadPem("--ca", options.ca, &security.authorities);
  if (status.ok()) status = ReadPem("--cert", options.certificate, &security.certificate);
  if (status.ok()) status = ReadPem("--key", options.private_key, &security.private_key);
  if (status.ok()) status = ReadToken(options, &security.token);
  if (!status.ok()) return status;
  if (!security.token.empty() && !security.tls && !IsThisMachine(host)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a token for ", host, " would cross the network where others can read it: add ",
        "--tls, or --ca FILE where the server's authority is not a public one"));
  }
  return security;
}

std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const ClientSecurity& security) {
  if (!security.tls) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = security.authorities;
  options.pem_cert_chain = security.certificate;
  options.pem_private_key = security.private_key;
  return grpc::SslCredentials(options);
}

}  // namespace mambad::cli
