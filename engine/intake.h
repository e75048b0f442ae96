// The door of the engine: whether there is room for one more request, how long it will wait, and
// when one that is refused should come back. No clock and no lock of its own: the engine's shell
// keeps it under its mutex and says what time it is.

#ifndef MAMBAD_ENGINE_INTAKE_H_
#define MAMBAD_ENGINE_INTAKE_H_

#include <cstdint>
#include <deque>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine_core.h"
#include "engine/options.h"
#include "engine/request.h"
#include "engine/wait_forecast.h"

namespace mambad {

class Intake {
 public:
  // As the engine has resolved them; `context`: tokens of prompt + answer that it serves.
  Intake(const EngineOptions& options, int64_t context);

  // One more request wants in. OK: it waits from now on. RESOURCE_EXHAUSTED when a queue limit is
  // reached, with RetryDelayOf(status) until the queue is likely to have room for it.
  absl::Status Ask(const Request& request, absl::Time now);
  // Whether there is room for one more, of so many prompt tokens.
  absl::Status Room(int64_t tokens) const;
  // All that were let in are the core's from now on, which says so with the next Publish.
  void HandOver();
  // What the core says of itself between two steps.
  void Publish(const EngineCore& core);

  // Requests that wait, those included that the core has not reported yet.
  int waiting() const { return core_waiting_ + handed_over_ + submitted_; }
  // How long one more would wait before its first step, if there were room for it.
  absl::Duration EstimatedWait(absl::Time now) const;

 private:
  // What a request asks for, in tokens.
  struct Demand {
    double tokens = 0, prompt = 0;
  };
  Demand DemandOf(const Request& request) const;
  absl::Duration RetryDelay(absl::Time now);

  const int max_waiting_, max_sequences_;
  const int64_t max_waiting_tokens_, context_;

  int core_waiting_ = 0, free_slots_ = 0;
  int64_t core_waiting_tokens_ = 0;
  int submitted_ = 0, handed_over_ = 0;
  int64_t submitted_tokens_ = 0, handed_over_tokens_ = 0;

  WaitForecast forecast_;
  ServicePace pace_;
  std::optional<Demand> usual_;  // of late; absent: nothing came yet
  // When those who were refused were told to come back, the next one first.
  std::deque<absl::Time> promised_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_INTAKE_H_
