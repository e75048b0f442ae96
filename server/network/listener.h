// Listening sockets for "host:port", with errors that say what the system said.

#ifndef MAMBAD_SERVER_NETWORK_LISTENER_H_
#define MAMBAD_SERVER_NETWORK_LISTENER_H_

#include <sys/socket.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mambad::server {

// A descriptor that is closed at its end; -1: none.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  ~Descriptor() { Close(); }
  Descriptor(Descriptor&& other) noexcept : number_(other.Release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;

  int number() const { return number_; }
  int Release();  // the caller's from now on
  void Close();

 private:
  int number_;
};

// One socket for each address that the host stands for, all on one port.
struct Listener {
  std::vector<Descriptor> sockets;  // listening, non-blocking, closed on exec
  int port = 0;
};

// Listens on `address`; port 0 picks a free one. FAILED_PRECONDITION "KEY: cannot listen on
// ADDRESS: what the system says", with the way out where there is one: `flag` is what chooses
// another port on the command line. INVALID_ARGUMENT when it is no host:port.
absl::StatusOr<Listener> Listen(absl::string_view key, absl::string_view flag,
                                const std::string& address);

// The host of a connected or listening socket's other address, "192.0.2.1" or "2001:db8::1"; an
// IPv4 address in IPv6 clothes is told as IPv4.
std::string HostOf(const sockaddr* address);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_NETWORK_LISTENER_H_
