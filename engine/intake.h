// The door of the engine: whether there is room for one more request, how long it will wait, and
// when one that is refused should come back. No clock and no lock of its own: the engine's shell
// keeps it under its mutex and says what time it is.
//
// Those who were refused are taken to stand in a line outside, in the order in which they were
// refused first. Each is told when its own place in the queue is likely to come free, so that they
// do not all come back together. A caller is known again by its request, which it repeats:
//   - who comes back and finds no room keeps its place in the line;
//   - who asks long before it was told to is no other caller, and takes no second place;
//   - who has not come back in time is out of the line. Of late it was such a share of all that
//     came back, and the line is taken to be as much shorter. While it is not known whether those
//     in the line come back at all, it gets no longer than a bounded time, and who is beyond its
//     end is told to come back then;
//   - who comes later than others whose time to come back is near finds their places taken: else
//     those who have just been answered, and ask again at once, would have all room that there is.
//     No slot is left idle for that: what the next step can start is let in.

#ifndef MAMBAD_ENGINE_INTAKE_H_
#define MAMBAD_ENGINE_INTAKE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/capacity.h"
#include "engine/engine_stats.h"
#include "engine/options.h"
#include "engine/request.h"
#include "engine/service_demands.h"
#include "engine/wait_forecast.h"

namespace mambad {

class Intake {
 public:
  // Of an engine with this capacity, which outlives it, and these options; the rest is published.
  Intake(const Capacity& capacity, const EngineOptions& options, const EngineStats& stats,
         const ServiceDemands& demands);

  // One more request wants in. OK: it waits from now on. RESOURCE_EXHAUSTED when a queue limit is
  // reached, with RetryDelayOf(status) until the queue is likely to have room for it.
  absl::Status Ask(const Request& request, absl::Time now);
  // Whether there is room for one more, of so many prompt tokens, whoever it is.
  absl::Status Room(int64_t tokens) const { return Room(tokens, {}); }
  // All that were let in are the core's from now on, which says so by the next Publish.
  void HandOver();
  // Between two steps: what the core says of itself.
  void Publish(const EngineStats& stats, const ServiceDemands& demands);

  // Requests that wait, those included that the core has not reported yet.
  int waiting() const { return core_waiting_ + static_cast<int>(submitted_.size()); }
  // How long one more would wait before its first step, if there were room for it. To 10 min.
  absl::Duration EstimatedWait(absl::Time now) const;

 private:
  struct Outside {
    size_t key = 0;  // of the request
    ServiceDemand demand;
    absl::Time since, told, due;  // refused first and last; when it was told to come back
  };

  // Places in the queue that are kept for those in the line.
  struct KeptPlaces {
    int64_t requests = 0;
    int64_t prompt_tokens = 0;
  };

  absl::Status Room(int64_t tokens, const KeptPlaces& kept) const;
  // For those who were refused before this one and are about to come back.
  KeptPlaces KeptBefore(const Outside& caller, absl::Time now) const;
  void ForgetLate(absl::Time now);
  // What is known of those who were refused: one of them came back as it was told, or did not.
  void NoteReturn();
  void NoteAbsence();
  // Of one in the line: who comes now comes about when it was told to.
  static bool IsAsTold(const Outside& caller, absl::Time now);
  // Takes the caller with this request out of the line; `caller->since`: its place in it. False:
  // there is none.
  bool Recognize(size_t key, absl::Time now, Outside* caller);
  // Makes `in_line` false where that is too far ahead to have a place in the line.
  absl::Duration RetryDelay(const Outside& caller, const KeptPlaces& kept, absl::Time now,
                            bool* in_line);
  // How many of those that wait, and of those ahead in the line, must have started, when this share
  // of the line comes back.
  int64_t StartsUntilRoom(const Outside& caller, const KeptPlaces& kept, int64_t ahead,
                          double share) const;
  // Of the first that wait and stand in the line, how many seconds after demands_.made.
  double StartOf(int64_t place);
  absl::Duration FromNow(double seconds, absl::Time now) const;
  const ServiceDemand& DemandAt(int64_t place) const;

  const Capacity& capacity_;
  const int slots_;
  const int64_t pages_;
  const int max_waiting_;
  const int64_t max_waiting_tokens_;

  // As of the last Publish.
  int core_waiting_ = 0, free_slots_ = 0;
  int64_t core_waiting_tokens_ = 0;
  QueueDemands demands_;
  ServicePace pace_;
  absl::Duration last_step_;  // between the last two
  // Those that were let in since the core last reported, the first handed_over_ of them its own.
  std::vector<ServiceDemand> submitted_;
  size_t handed_over_ = 0;
  int64_t submitted_tokens_ = 0;

  WaitForecast forecast_;
  std::vector<double> starts_;  // by place, as far as they were asked for
  bool stale_ = true;           // of both

  std::deque<Outside> line_;  // by `since`
  double return_share_ = 1;
  // Returns of late, as far as they are not outweighed by absences; absences since the last one.
  double returns_ = 0;
  int absences_in_a_row_ = 0;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_INTAKE_H_
