// What gRPC orders between its threads, told to ThreadSanitizer, which does not see the locks of a
// library that was built without it. Nothing in other builds.
//
// gRPC knows a call's reactor from the return of its Start method on. The methods that it then
// calls come after that, and the last one, OnDone, after all the others have returned.

#ifndef MAMBAD_SERVER_NETWORK_THREAD_H_
#define MAMBAD_SERVER_NETWORK_THREAD_H_

#ifdef MAMBAD_THREAD_SANITIZER  // by CMakeLists.txt
#include <sanitizer/tsan_interface.h>
#endif

namespace mambad::server {

// Gives `reactor`, as this thread leaves it, to the methods that gRPC calls later.
inline void GiveToNetwork([[maybe_unused]] void* reactor) {
#ifdef MAMBAD_THREAD_SANITIZER
  __tsan_release(reactor);
#endif
}

// First in a method that gRPC calls: takes what was given before.
inline void TakeFromNetwork([[maybe_unused]] void* reactor) {
#ifdef MAMBAD_THREAD_SANITIZER
  __tsan_acquire(reactor);
#endif
}

// First in each such method but OnDone: takes now, gives at the end.
class NetworkCallback {
 public:
  explicit NetworkCallback(void* reactor) : reactor_(reactor) { TakeFromNetwork(reactor_); }
  ~NetworkCallback() { GiveToNetwork(reactor_); }
  NetworkCallback(const NetworkCallback&) = delete;
  NetworkCallback& operator=(const NetworkCallback&) = delete;

 private:
  void* const reactor_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_NETWORK_THREAD_H_
