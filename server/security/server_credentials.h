// What gRPC asks of every connection and every call before the daemon hears of them.
//
// On gRPC's C interface: its C++ one can exchange certificates only unseen, and a pair that does
// not fit leaves gRPC 1.51 without any; and it does not let calls be checked without TLS.

#ifndef MAMBAD_SERVER_SECURITY_SERVER_CREDENTIALS_H_
#define MAMBAD_SERVER_SECURITY_SERVER_CREDENTIALS_H_

#include <grpcpp/security/server_credentials.h>

#include <memory>

#include "absl/status/status.h"
#include "engine/mutex.h"
#include "server/security/authenticator.h"
#include "server/security/tls_files.h"

namespace mambad::server {

// The certificate that the next handshake uses. Thread-safe.
class CurrentCertificate {
 public:
  explicit CurrentCertificate(TlsMaterial material) { Set(std::move(material)); }

  // Connections that are open keep theirs.
  void Set(TlsMaterial material);
  // With a number that is another after each Set.
  TlsMaterial Get(int64_t* version) const;

 private:
  mutable Mutex mutex_;
  TlsMaterial material_ ABSL_GUARDED_BY(mutex_);
  int64_t version_ ABSL_GUARDED_BY(mutex_) = 0;
};

// `certificate` nullptr: no TLS. With a client authority in it, clients must show certificates: for
// the credentials' life, as it was when they were made. TLS is 1.2 at least, as gRPC has it.
// `authenticator` nullptr: calls are not checked; else those that it refuses end before their
// message is read. Both outlive the credentials.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(CurrentCertificate* certificate,
                                                               Authenticator* authenticator);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SECURITY_SERVER_CREDENTIALS_H_
