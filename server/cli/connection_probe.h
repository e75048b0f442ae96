// Why no gRPC connection comes about, found out by a plain TCP connection of our own: gRPC's words
// for it differ between versions and name its source files.

#ifndef MAMBAD_SERVER_CLI_CONNECTION_PROBE_H_
#define MAMBAD_SERVER_CLI_CONNECTION_PROBE_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/cli/address.h"
#include "server/cli/client_security.h"

namespace mambad::cli {

// What the server does with the beginning of an HTTP/2 connection.
enum class ProbeResult {
  kUnresolved,   // no such host
  kRefused,      // nothing listens there
  kUnreachable,  // another error of the network
  kConnectTimeout,
  kSilent,      // accepts the connection and says nothing
  kClosed,      // accepts the connection and closes it
  kHttp1,       // answers as a web server
  kTls,         // answers as TLS does to what is none
  kForeign,     // answers in another protocol
  kNoTls,       // over TLS: answers as what does not speak it
  kTlsRefused,  // over TLS: the server broke the handshake off
  kUntrusted,   // over TLS: its certificate is not believed
  kHttp2,       // as gRPC does: no fault found
};

struct Probe {
  ProbeResult result = ProbeResult::kHttp2;
  std::string reason;  // the system's words, where it has any
};

// The client's preface and empty settings (RFC 9113, 3.4); a server's first frame is its settings.
inline constexpr absl::string_view kHttp2Preface(
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);

// Blocks for at most about `patience`, name resolution aside.
Probe ProbeServer(const Address& address, const ClientSecurity& security, absl::Duration patience);

// One sentence for people: what is wrong and the way out; no full stop. `patience`: how long was
// waited.
std::string DescribeProbe(const Probe& probe, const Address& address, absl::Duration patience);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_CONNECTION_PROBE_H_
