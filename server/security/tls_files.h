// The files of TLS: the server's certificate with its chain, its private key, and the authorities
// whose clients may connect. PEM.

#ifndef MAMBAD_SERVER_SECURITY_TLS_FILES_H_
#define MAMBAD_SERVER_SECURITY_TLS_FILES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/server_options.h"

namespace mambad::server {

// What the files hold, found to be of use.
struct TlsMaterial {
  std::string certificate;  // PEM: the server's own first, then those that lead to its authority
  std::string private_key;  // PEM
  std::string client_ca;    // PEM; empty: clients show no certificate
  std::string subject;      // of the server's certificate, for people: "CN=example.org"
  absl::Time not_after;     // when the first certificate of the chain ends
};

// Reads and checks them against each other: PEM, times of validity, the key's belonging to the
// certificate, the strength that the TLS library wants. `now` is wall time. INVALID_ARGUMENT in one
// line: the key of the configuration, the file and what is wrong with it; never what is in it.
absl::StatusOr<TlsMaterial> ReadTlsFiles(const TlsOptions& options, absl::Time now);

// A file's bytes, at most `largest`. INVALID_ARGUMENT "KEY: PATH: what the system says".
absl::StatusOr<std::string> ReadSmallFile(absl::string_view key, const std::string& path,
                                          size_t largest);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SECURITY_TLS_FILES_H_
