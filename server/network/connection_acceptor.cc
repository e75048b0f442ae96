#include "server/network/connection_acceptor.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/steady_time.h"

namespace mambad::server {
namespace {

// Looking through all connections takes some 0.3 us each: not for every one that is refused.
constexpr absl::Duration kLeastBetweenSweeps = absl::Milliseconds(20);
constexpr absl::Duration kFailurePause = absl::Milliseconds(50);

// Who is bounded together: an IPv4 address, or an IPv6 network, of which one machine has 2^64.
std::string PeerOf(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET6) {
    sockaddr_in6 network = reinterpret_cast<const sockaddr_in6&>(address);
    if (!IN6_IS_ADDR_V4MAPPED(&network.sin6_addr)) memset(network.sin6_addr.s6_addr + 8, 0, 8);
    return HostOf(reinterpret_cast<const sockaddr*>(&network));
  }
  return HostOf(reinterpret_cast<const sockaddr*>(&address));
}

}  // namespace

ConnectionAcceptor::ConnectionAcceptor(Listener listener, const ConnectionLimits& limits,
                                       Receiver receive, FailureHandler fail)
    : limits_(limits),
      receive_(std::move(receive)),
      fail_(std::move(fail)),
      listener_(std::move(listener)),
      reserve_(open("/dev/null", O_RDONLY | O_CLOEXEC)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { Run(); }) {}

ConnectionAcceptor::~ConnectionAcceptor() { Stop(); }

void ConnectionAcceptor::Stop() {
  const uint64_t one = 1;
  if (!thread_.joinable()) return;
  if (write(wake_.number(), &one, sizeof(one)) > 0) thread_.join();  // the counter is far from full
  listener_.sockets.clear();
}

ConnectionCounts ConnectionAcceptor::counts() {
  MutexLock lock(&mutex_);
  Sweep();
  counts_.open = static_cast<int>(open_.size());
  return counts_;
}

void ConnectionAcceptor::Run() {
  std::vector<pollfd> waited = {{wake_.number(), POLLIN, 0}};
  for (const Descriptor& socket : listener_.sockets) {
    waited.push_back({socket.number(), POLLIN, 0});
  }
  absl::Time failing_since = absl::InfiniteFuture();
  while (poll(waited.data(), waited.size(), -1) >= 0 || errno == EINTR) {
    if (waited[0].revents != 0) return;
    bool failed = false;
    for (size_t i = 1; i < waited.size(); ++i) {
      if (waited[i].revents == 0) continue;
      const Outcome outcome = AcceptOne(waited[i].fd);
      if (outcome == Outcome::kBroken) {
        return fail_(absl::InternalError(absl::StrCat("cannot accept connections: ", failure_)));
      }
      failed |= outcome == Outcome::kNoDescriptor;
      if (outcome == Outcome::kAccepted) failing_since = absl::InfiniteFuture();
    }
    if (!failed) continue;
    failing_since = std::min(failing_since, SteadyNow());
    if (SteadyNow() - failing_since > limits_.failure_patience) {
      return fail_(absl::ResourceExhaustedError(
          absl::StrCat("no connection could be accepted for ",
                       absl::FormatDuration(limits_.failure_patience), ": ", failure_)));
    }
    pollfd stop = {wake_.number(), POLLIN, 0};
    if (poll(&stop, 1, static_cast<int>(absl::ToInt64Milliseconds(kFailurePause))) > 0) return;
  }
}

ConnectionAcceptor::Outcome ConnectionAcceptor::AcceptOne(int listening) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  const int descriptor = accept4(listening, reinterpret_cast<sockaddr*>(&address), &size,
                                 SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (descriptor >= 0) {
    Admit(Descriptor(descriptor), PeerOf(address));
    return Outcome::kAccepted;
  }
  switch (errno) {
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      failure_ = strerror(errno);
      return RefuseForWantOfDescriptors(listening);
    case EBADF:
    case EINVAL:
    case ENOTSOCK:
    case EOPNOTSUPP:
    case EFAULT:
      failure_ = strerror(errno);
      return Outcome::kBroken;
    default:
      // The peer has gone again, or the network has: the next one may do better.
      return Outcome::kNoneWaiting;
  }
}

ConnectionAcceptor::Outcome ConnectionAcceptor::RefuseForWantOfDescriptors(int listening) {
  reserve_.Close();
  const int descriptor = accept4(listening, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (descriptor >= 0) {
    {
      MutexLock lock(&mutex_);
      ++counts_.refused_descriptors;
    }
    close(descriptor);
  }
  reserve_ = Descriptor(open("/dev/null", O_RDONLY | O_CLOEXEC));
  return Outcome::kNoDescriptor;
}

void ConnectionAcceptor::Admit(Descriptor socket, const std::string& peer) {
  const int descriptor = socket.number();
  struct stat identity {};
  {
    MutexLock lock(&mutex_);
    // Refused without a word: after a GOAWAY, clients of gRPC take the connection for one that
    // worked, and come back at once; after this, they wait longer each time.
    if (!HasRoom(peer) || fstat(descriptor, &identity) != 0) return;
    // A number that comes again was closed in between.
    if (const auto old = open_.find(descriptor); old != open_.end()) {
      Forget(old->second.peer);
      open_.erase(old);
    }
    open_.emplace(descriptor, Connection{identity.st_dev, identity.st_ino, peer});
    ++of_peer_[peer];
    ++counts_.accepted;
  }
  receive_(socket.Release());
}

bool ConnectionAcceptor::HasRoomAtAll() const {
  return static_cast<int>(open_.size()) < limits_.connections;
}

bool ConnectionAcceptor::HasRoomOf(const std::string& peer) const {
  const auto found = of_peer_.find(peer);
  return found == of_peer_.end() || found->second < limits_.connections_per_peer;
}

bool ConnectionAcceptor::HasRoom(const std::string& peer) {
  // What is counted are those that were open at the last look.
  if ((!HasRoomAtAll() || !HasRoomOf(peer)) && SteadyNow() - last_sweep_ > kLeastBetweenSweeps)
    Sweep();
  if (!HasRoomAtAll()) {
    ++counts_.refused_full;
    return false;
  }
  if (!HasRoomOf(peer)) {
    ++counts_.refused_peer;
    return false;
  }
  return true;
}

void ConnectionAcceptor::Sweep() {
  for (auto entry = open_.begin(); entry != open_.end();) {
    struct stat now {};
    const Connection& then = entry->second;
    if (fstat(entry->first, &now) == 0 && now.st_ino == then.inode && now.st_dev == then.device) {
      ++entry;
      continue;
    }
    Forget(then.peer);
    entry = open_.erase(entry);
  }
  last_sweep_ = SteadyNow();
}

void ConnectionAcceptor::Forget(const std::string& peer) {
  const auto found = of_peer_.find(peer);
  if (--found->second == 0) of_peer_.erase(found);
}

}  // namespace mambad::server
