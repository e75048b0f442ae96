// Accepts the connections of the gRPC port, and keeps them below what the process can hold.
//
// gRPC would accept them itself, without a bound; the version in Debian 12 never accepts again once
// it has run out of descriptors. Here it only gets sockets that are accepted already.

#ifndef MAMBAD_SERVER_NETWORK_CONNECTION_ACCEPTOR_H_
#define MAMBAD_SERVER_NETWORK_CONNECTION_ACCEPTOR_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "server/network/listener.h"

namespace mambad::server {

struct ConnectionLimits {
  int connections = 0;           // open at a time; more are accepted and closed at once
  int connections_per_peer = 0;  // of them, those from one address (IPv6: one /64 network)
  // Accepting that fails for so long without a break is given up.
  absl::Duration failure_patience = absl::Seconds(30);
};

// What has happened so far. Counters never fall.
struct ConnectionCounts {
  int open = 0;
  int64_t accepted = 0;
  int64_t refused_full = 0;         // ConnectionLimits::connections
  int64_t refused_peer = 0;         // ConnectionLimits::connections_per_peer
  int64_t refused_descriptors = 0;  // no descriptor was left all the same
};

// counts() is thread-safe, the rest belongs to one thread. A thread of its own accepts.
class ConnectionAcceptor {
 public:
  // Takes the socket: closing it is the receiver's business from then on.
  using Receiver = std::function<void(int descriptor)>;
  // Accepting has failed for good, and why; nothing is accepted any more. On the acceptor's thread,
  // at most once: it must not destroy the acceptor.
  using FailureHandler = std::function<void(const absl::Status& reason)>;

  ConnectionAcceptor(Listener listener, const ConnectionLimits& limits, Receiver receive,
                     FailureHandler fail);
  ~ConnectionAcceptor();  // as Stop

  // Closes the port: what is open stays so. Idempotent; not from the failure handler.
  void Stop();
  ConnectionCounts counts();

 private:
  // How a connection is known again after it was given away: its descriptor's number may have been
  // closed and taken by something else since, its inode not.
  struct Connection {
    dev_t device;
    ino_t inode;
    std::string peer;
  };
  enum class Outcome { kAccepted, kNoneWaiting, kNoDescriptor, kBroken };

  void Run();
  Outcome AcceptOne(int listening);
  Outcome RefuseForWantOfDescriptors(int listening);
  void Admit(Descriptor socket, const std::string& peer);
  bool HasRoomAtAll() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasRoomOf(const std::string& peer) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Both, after a look for connections that are gone; counts a refusal.
  bool HasRoom(const std::string& peer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets the connections that are closed.
  void Sweep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(const std::string& peer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ConnectionLimits limits_;
  const Receiver receive_;
  const FailureHandler fail_;
  Listener listener_;    // the thread's
  Descriptor reserve_;   // the thread's: given up to accept, and refuse, when none is left
  Descriptor wake_;      // readable: stop
  std::string failure_;  // the thread's: what the system said last

  Mutex mutex_;
  std::unordered_map<int, Connection> open_ ABSL_GUARDED_BY(mutex_);  // by descriptor
  std::unordered_map<std::string, int> of_peer_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_sweep_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  ConnectionCounts counts_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_NETWORK_CONNECTION_ACCEPTOR_H_
