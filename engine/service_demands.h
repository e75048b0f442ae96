// What requests take still, those that run and those that wait, at the pace that was measured: what
// waits are foretold by (intake.h) and principals charged until it is known. Engine thread;
// allocates nothing once warm.

#ifndef MAMBAD_ENGINE_SERVICE_DEMANDS_H_
#define MAMBAD_ENGINE_SERVICE_DEMANDS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/active_request.h"
#include "engine/capacity.h"
#include "engine/request.h"
#include "engine/speculation/step_plan.h"
#include "engine/wait_forecast.h"

namespace mambad {

// What those that run take still, and those that wait, in the order in which they will start.
struct QueueDemands {
  std::vector<ServiceDemand> running, waiting;
  absl::Time made = absl::InfinitePast();
};

class ServiceDemands {
 public:
  // `capacity` outlives it. So many run at most.
  ServiceDemands(const Capacity& capacity, int max_sequences);

  const ServicePace& pace() const { return pace_; }
  const QueueDemands& queue() const { return queue_; }  // as of the last Update

  // Tokens of its prompt and of its answers, those that are there too.
  int64_t ExpectedTokens(const Request& request) const;

  // A round with results; its seconds are counted from the end of the one before, when nothing was
  // idle between.
  void ObserveStep(absl::Span<const StepEntry> plan, double seconds);
  // An answer that ended by itself.
  void ObserveAnswer(const Answer& answer);
  // How long the answers of unknown length are that run now.
  void ObserveRunning(absl::Span<const std::unique_ptr<ActiveRequest>> running);
  // ObserveRunning, then all demands anew; `waiting` in the order in which they will start.
  void Update(absl::Span<const std::unique_ptr<ActiveRequest>> running,
              absl::Span<const std::unique_ptr<ActiveRequest>> waiting, absl::Time now);

  // When a request that would come now, behind those that wait `before` it, is likely to have its
  // first token and all of its answer, seconds after `now`. Of those that wait only so many are
  // looked at. Those that run are taken as of the last Update.
  static constexpr int64_t kForeseen = 1024;
  struct Times {
    double start = 0, reading = 0, answer = 0;  // reading, answer: that they take from then on
  };
  Times Foresee(const Request& request, absl::Span<const std::unique_ptr<ActiveRequest>> before,
                absl::Time now);

  // The pace stays as a guess, nothing runs and nothing waits.
  void Doubt();

 private:
  ServiceDemand DemandOf(const ActiveRequest& active) const;

  const Capacity& capacity_;
  ServicePace pace_;
  QueueDemands queue_;
  const int slots_;
  WaitForecast forecast_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SERVICE_DEMANDS_H_
