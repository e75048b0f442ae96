#include "server/network/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/server_options.h"

namespace mambad::server {
namespace {

// Connections that wait to be accepted; the system cuts it to its own bound.
constexpr int kBacklog = 1024;

struct AddressList {
  ~AddressList() {
    if (first != nullptr) freeaddrinfo(first);
  }
  addrinfo* first = nullptr;
};

std::string SystemError(int error) {
  // The thread-safe form that returns its text.
  char buffer[256];
  return strerror_r(error, buffer, sizeof(buffer));
}

std::string WayOut(int error, absl::string_view flag, int port) {
  switch (error) {
    case EADDRINUSE:
      return absl::StrCat(" (another mambad? choose another with ", flag, ")");
    case EACCES:
      return port < 1024 ? absl::StrCat(" (ports below 1024 are the system's: choose another with ",
                                        flag, ")")
                         : "";
    case EADDRNOTAVAIL:
      return " (it is no address of this machine)";
    default:
      return "";
  }
}

void SetPort(sockaddr* address, int port) {
  const in_port_t wire = htons(static_cast<uint16_t>(port));
  if (address->sa_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(address)->sin6_port = wire;
  } else {
    reinterpret_cast<sockaddr_in*>(address)->sin_port = wire;
  }
}

int BoundPort(int descriptor) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

// 0, or the system's error.
int OpenSocket(const addrinfo& address, Descriptor* result) {
  Descriptor socket_(
      socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
  if (socket_.number() < 0) return errno;
  const int on = 1, off = 0;
  // A port whose last connections are still closing can be had again; one that is listened on
  // cannot.
  setsockopt(socket_.number(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  // Accepted sockets inherit it: answers are small and must not wait for more.
  setsockopt(socket_.number(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  // "[::]" is for IPv4, too.
  if (address.ai_family == AF_INET6) {
    setsockopt(socket_.number(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  }
  if (bind(socket_.number(), address.ai_addr, address.ai_addrlen) != 0) return errno;
  if (listen(socket_.number(), kBacklog) != 0) return errno;
  *result = std::move(socket_);
  return 0;
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    Close();
    number_ = other.Release();
  }
  return *this;
}

int Descriptor::Release() { return std::exchange(number_, -1); }

void Descriptor::Close() {
  if (number_ >= 0) close(number_);
  number_ = -1;
}

absl::StatusOr<Listener> Listen(absl::string_view key, absl::string_view flag,
                                const std::string& address) {
  HostAndPort parts;
  if (absl::Status status = ParseHostAndPort(key, address, &parts); !status.ok()) return status;
  const std::string prefix = absl::StrCat(key, ": cannot listen on ", address, ": ");
  AddressList addresses;
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  const int code = getaddrinfo(parts.host.c_str(), nullptr, &hints, &addresses.first);
  if (code != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        prefix, code == EAI_SYSTEM ? SystemError(errno) : std::string(gai_strerror(code)), " (\"",
        parts.host, "\" must be a name or an address of this machine)"));
  }
  Listener listener;
  listener.port = parts.port;
  int last_error = 0;
  for (addrinfo* entry = addresses.first; entry != nullptr; entry = entry->ai_next) {
    SetPort(entry->ai_addr, listener.port);
    Descriptor socket_;
    const int error = OpenSocket(*entry, &socket_);
    if (error == 0) {
      listener.port = BoundPort(socket_.number());
      listener.sockets.push_back(std::move(socket_));
    } else if (error == EADDRINUSE || last_error == 0) {
      last_error = error;
    }
  }
  // A name may stand for an address of a kind that this machine has not (localhost and ::1); but a
  // port that another server has on one of them is not shared.
  if (listener.sockets.empty() || last_error == EADDRINUSE) {
    return absl::FailedPreconditionError(
        absl::StrCat(prefix, SystemError(last_error), WayOut(last_error, flag, parts.port)));
  }
  return listener;
}

std::string HostOf(const sockaddr* address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address->sa_family == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, text,
              sizeof(text));
  } else if (address->sa_family == AF_INET6) {
    const in6_addr& host = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(&host)) {
      inet_ntop(AF_INET, host.s6_addr + 12, text, sizeof(text));
    } else {
      inet_ntop(AF_INET6, &host, text, sizeof(text));
    }
  }
  return text;
}

}  // namespace mambad::server
