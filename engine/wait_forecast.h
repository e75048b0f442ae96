// When those who wait will start: the running and the waiting requests played forward at the pace
// that was measured. Pure functions of what they are told; no clock inside.

#ifndef MAMBAD_ENGINE_WAIT_FORECAST_H_
#define MAMBAD_ENGINE_WAIT_FORECAST_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace mambad {

// How fast things go while something runs. Of two equal stretches of time the later one weighs
// more: the past loses half of its weight in about kHalfLife.
class ServicePace {
 public:
  static constexpr double kHalfLife = 2;  // seconds

  // A step took `seconds`, with what passed since the one before when nothing was idle between:
  // `decoding` sequences kept `tokens` in it, and `prompt_rows` of all its `rows` read prompts.
  void Observe(double seconds, int decoding, int64_t tokens, int64_t prompt_rows, int64_t rows);
  // An answer ended by itself after `tokens` of at most `limit`; whether its caller named that
  // limit.
  void ObserveAnswer(int64_t tokens, int64_t limit, bool named);

  // Of one sequence among those that run; before anything is known, a guess.
  double SecondsAToken() const;
  double SecondsAPromptToken() const;
  // How many tokens are still to come when `generated` are there.
  double TokensLeft(int64_t generated, int64_t limit, bool named) const;

 private:
  double sequence_seconds_ = 0, tokens_ = 0;  // of decoding
  double prompt_seconds_ = 0, prompt_rows_ = 0;
  double named_share_ = 1;      // of the limit that callers name
  double unnamed_tokens_ = 256;  // of answers without
};

// One request: how long it takes, or takes still, and how many slots.
struct ServiceDemand {
  double seconds = 0;
  int slots = 1;
};

struct WaitForecast {
  // After so many seconds the first, second, ... of those that wait starts, and then, as if ever
  // more like them came, those behind. Never falls. Empty: nothing is known, or nothing waits for
  // anything.
  std::vector<double> starts;
  int waiting = 0;  // of them, real ones
  absl::Time made = absl::InfinitePast();

  // From `now` until the request at this place behind those that wait (0: the next to come) starts.
  absl::Duration StartOf(int64_t place, absl::Time now) const { return At(waiting + place, now); }
  // Until the queue is shorter by `places` + 1.
  absl::Duration RoomAfter(int64_t places, absl::Time now) const { return At(places, now); }

 private:
  absl::Duration At(int64_t place, absl::Time now) const;
};

// Fills `forecast` for `slots` slots, in order of `waiting`. `behind`: how many more are played.
void ForecastWaits(absl::Span<const ServiceDemand> running, absl::Span<const ServiceDemand> waiting,
                   int slots, int behind, WaitForecast* forecast);

}  // namespace mambad

#endif  // MAMBAD_ENGINE_WAIT_FORECAST_H_
