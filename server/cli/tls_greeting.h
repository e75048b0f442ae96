// Why no connection over TLS comes about: a handshake of our own, for the words that gRPC does not
// pass on.

#ifndef MAMBAD_SERVER_CLI_TLS_GREETING_H_
#define MAMBAD_SERVER_CLI_TLS_GREETING_H_

#include <string>

#include "absl/time/time.h"
#include "server/cli/client_security.h"
#include "server/cli/connection_probe.h"

namespace mambad::cli {

// Over a connected, non-blocking socket, until `end` (wall time): the handshake for `host`, and the
// beginning of HTTP/2 over it. kUntrusted, kTlsRefused, kNoTls, kSilent, kClosed or kHttp2.
Probe GreetOverTls(int descriptor, const std::string& host, const ClientSecurity& security,
                   absl::Time end);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_TLS_GREETING_H_
