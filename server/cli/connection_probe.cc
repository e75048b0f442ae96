#include "server/cli/connection_probe.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "server/cli/tls_greeting.h"

namespace mambad::cli {
namespace {

class Socket {
 public:
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  ~Socket() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int get() const { return descriptor_; }

 private:
  const int descriptor_;
};

// True when one of `events` came before `end`.
bool WaitFor(int descriptor, short events, absl::Time end) {  // NOLINT(runtime/int): poll's type
  for (;;) {
    pollfd entry{descriptor, events, 0};
    const int64_t left = absl::ToInt64Milliseconds(end - absl::Now());
    const int ready = poll(&entry, 1, static_cast<int>(std::max<int64_t>(left, 0)));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

Probe FailedConnect(int error) {
  if (error == ECONNREFUSED) return {ProbeResult::kRefused, ""};
  if (error == ETIMEDOUT) return {ProbeResult::kConnectTimeout, ""};
  return {ProbeResult::kUnreachable, std::strerror(error)};
}

constexpr size_t kFrameHeader = 9;
constexpr char kSettingsFrame = 4;

Probe Greet(int descriptor, absl::Time end) {
  if (send(descriptor, kHttp2Preface.data(), kHttp2Preface.size(), MSG_NOSIGNAL) < 0)
    return {ProbeResult::kClosed, std::strerror(errno)};
  std::string answer;
  while (answer.size() < kFrameHeader) {
    if (!WaitFor(descriptor, POLLIN, end)) {
      if (answer.empty()) return {ProbeResult::kSilent, ""};
      break;
    }
    char buffer[64];
    const ssize_t got = recv(descriptor, buffer, sizeof(buffer), 0);
    if (got <= 0) break;
    answer.append(buffer, static_cast<size_t>(got));
  }
  if (answer.empty()) return {ProbeResult::kClosed, ""};
  if (absl::StartsWith(answer, "HTTP/")) return {ProbeResult::kHttp1, ""};
  if (answer[0] == '\x15' && answer.size() > 1 && answer[1] == '\x03')
    return {ProbeResult::kTls, ""};
  const bool is_http2 = answer.size() >= kFrameHeader && answer[3] == kSettingsFrame;
  return {is_http2 ? ProbeResult::kHttp2 : ProbeResult::kForeign, ""};
}

Probe ProbeOne(const addrinfo& where, const std::string& host, const ClientSecurity& security,
               absl::Time end) {
  const Socket socket(::socket(where.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return {ProbeResult::kUnreachable, std::strerror(errno)};
  if (connect(socket.get(), where.ai_addr, where.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return FailedConnect(errno);
    if (!WaitFor(socket.get(), POLLOUT, end)) return {ProbeResult::kConnectTimeout, ""};
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return FailedConnect(error);
  }
  return security.tls ? GreetOverTls(socket.get(), host, security, end) : Greet(socket.get(), end);
}

// Servers of gRPC that want TLS close a connection without it, and say nothing.
bool SpeaksTls(const addrinfo& where, const std::string& host, absl::Time end) {
  ClientSecurity tls;
  tls.tls = true;
  const ProbeResult result = ProbeOne(where, host, tls, end).result;
  return result == ProbeResult::kUntrusted || result == ProbeResult::kTlsRefused ||
         result == ProbeResult::kHttp2;
}

}  // namespace

Probe ProbeServer(const Address& address, const ClientSecurity& security, absl::Duration patience) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  if (error != 0) return {ProbeResult::kUnresolved, gai_strerror(error)};
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  const absl::Time end = absl::Now() + patience;
  Probe worst{ProbeResult::kUnresolved, ""};
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    Probe probe = ProbeOne(*entry, address.host, security, end);
    if (probe.result == ProbeResult::kHttp2) return probe;
    if (probe.result == ProbeResult::kClosed && !security.tls &&
        SpeaksTls(*entry, address.host, end)) {
      probe.result = ProbeResult::kTls;
    }
    // Of several addresses (localhost has two) the one that came furthest tells most.
    if (entry == found || probe.result > worst.result) worst = std::move(probe);
  }
  return worst;
}

std::string DescribeProbe(const Probe& probe, const Address& address, absl::Duration patience) {
  const std::string where = address.Text();
  const std::string seconds = absl::StrFormat("%g s", absl::ToDoubleSeconds(patience));
  switch (probe.result) {
    case ProbeResult::kUnresolved:
      return absl::StrCat("no host \"", address.host, "\" is known (", probe.reason,
                          "): give the server's with --address HOST:PORT");
    case ProbeResult::kRefused:
      return absl::StrCat("no server at ", where, ": is mambad running? (--address HOST:PORT)");
    case ProbeResult::kUnreachable:
      return absl::StrCat(where, " cannot be reached: ", probe.reason, " (--address HOST:PORT)");
    case ProbeResult::kConnectTimeout:
      return absl::StrCat(where, " does not answer: no connection within ", seconds,
                          "; is the host up, and does a firewall let the port through?");
    case ProbeResult::kSilent:
      return absl::StrCat(where, " takes connections but says nothing within ", seconds,
                          ": it hangs, or is no mambad");
    case ProbeResult::kClosed:
      return absl::StrCat(where, " takes connections and closes them at once: is it a mambad?");
    case ProbeResult::kHttp1:
      return absl::StrCat(where,
                          " is a web server and does not speak gRPC; is it mambad's port for "
                          "metrics? (mambad's first line says both ports)");
    case ProbeResult::kTls:
      return absl::StrCat(where,
                          " wants TLS: add --tls, or --ca FILE where its authority is not a "
                          "public one");
    case ProbeResult::kNoTls:
      return absl::StrCat(where, " does not speak TLS: leave out --tls, --ca, --cert and --key");
    case ProbeResult::kTlsRefused:
      return absl::StrCat("no TLS with ", where, ": ", probe.reason,
                          "; a server that asks for a certificate wants --cert FILE --key FILE");
    case ProbeResult::kUntrusted:
      return absl::StrCat("the certificate of ", where, " is not trusted: ", probe.reason,
                          " (--ca FILE names the authority to trust)");
    case ProbeResult::kForeign:
      return absl::StrCat(where, " answers, but does not speak gRPC: is it a mambad?");
    case ProbeResult::kHttp2:
      break;
  }
  return absl::StrCat("the connection to ", where, " broke off");
}

}  // namespace mambad::cli
