#include "server/stall_timer.h"

#include <utility>

#include "absl/time/clock.h"
#include "server/network_thread.h"

namespace mambad::server {
namespace {

constexpr double kSlowestBytesASecond = 64 << 10;

// What a timer's thread runs and destroys.
class TimerCallback {
 public:
  explicit TimerCallback(std::function<void()> expired) : expired_(std::move(expired)) {}
  TimerCallback(const TimerCallback&) = default;
  ~TimerCallback() { TakeFromNetwork(&handed_over_); }

  void operator()(bool expired) const {
    TakeFromNetwork(&handed_over_);
    if (expired) expired_();
  }
  static void GiveToTimers() { GiveToNetwork(&handed_over_); }

 private:
  static inline char handed_over_ = 0;  // its address stands for all timers
  std::function<void()> expired_;
};

// A function of its own, of which ThreadSanitizer is told that another thread takes what it made.
void SetTimer(grpc::Alarm* alarm, absl::Duration time, TimerCallback callback) {
  TimerCallback::GiveToTimers();
  const gpr_timespec when =
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                   gpr_time_from_millis(absl::ToInt64Milliseconds(time), GPR_TIMESPAN));
  alarm->Set(when, std::move(callback));
}

}  // namespace

void StallTimer::Start(absl::Duration time, std::function<void()> expired) {
  alarm_ = std::make_unique<grpc::Alarm>();
  SetTimer(alarm_.get(), time, TimerCallback(std::move(expired)));
}

absl::Duration ReadingTime(absl::Duration stall_timeout, int64_t bytes) {
  return stall_timeout + absl::Seconds(static_cast<double>(bytes) / kSlowestBytesASecond);
}

}  // namespace mambad::server
