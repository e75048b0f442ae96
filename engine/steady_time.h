// Time that only goes forward at its own pace: steps of the wall clock neither end requests nor
// keep them.

#ifndef MAMBAD_ENGINE_STEADY_TIME_H_
#define MAMBAD_ENGINE_STEADY_TIME_H_

#include <chrono>

#include "absl/time/time.h"

namespace mambad {

// Steady time on absl::Time's scale; its zero, the epoch there, is some moment of the past. Only
// differences mean anything: never mix it with absl::Now().
inline absl::Time SteadyNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

// The same moment for the standard library; absl::InfiniteFuture() and what else lies beyond the
// clock's range are its last.
inline std::chrono::steady_clock::time_point ToSteadyClock(absl::Time steady_time) {
  using Clock = std::chrono::steady_clock;
  const absl::Duration since = steady_time - absl::UnixEpoch();
  if (since >= absl::FromChrono(Clock::duration::max())) return Clock::time_point::max();
  return Clock::time_point(absl::ToChronoNanoseconds(since));
}

}  // namespace mambad

#endif  // MAMBAD_ENGINE_STEADY_TIME_H_
