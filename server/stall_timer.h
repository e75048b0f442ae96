// Time given to a reader. Without it, an answer that nobody takes would lie in memory for as long
// as its connection lives.

#ifndef MAMBAD_SERVER_STALL_TIMER_H_
#define MAMBAD_SERVER_STALL_TIMER_H_

#include <grpcpp/alarm.h>

#include <functional>
#include <memory>

#include "absl/time/time.h"

namespace mambad::server {

// Not thread-safe: guarded by its call's lock.
class StallTimer {
 public:
  // Calls `expired` on a thread of the network's after `time`, unless stopped or started again
  // before; it may come too late to be stopped, so it must find out for itself whether it is still
  // meant, and hold what it needs.
  void Start(absl::Duration time, std::function<void()> expired);
  void Stop() { alarm_.reset(); }
  bool running() const { return alarm_ != nullptr; }

 private:
  std::unique_ptr<grpc::Alarm> alarm_;
};

// How long a reader may take for `bytes` that are on their way to it, given the time that it may
// stand still: the slowest connections that we serve carry 64 KiB a second.
absl::Duration ReadingTime(absl::Duration stall_timeout, int64_t bytes);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_STALL_TIMER_H_
