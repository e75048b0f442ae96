// When those who wait will start: the running and the waiting requests played forward at the pace
// that was measured. Pure functions of what they are told; no clock inside.

#ifndef MAMBAD_ENGINE_WAIT_FORECAST_H_
#define MAMBAD_ENGINE_WAIT_FORECAST_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"

namespace mambad {

// What one request asks for, before it has begun.
struct RequestSize {
  int64_t prompt = 0;  // tokens
  int64_t limit = 0;   // of an answer, tokens; 0: none is made
  bool named = true;   // by its caller; else it is what the context leaves
  int samples = 1;
};

// How long a request takes, or takes still, and what it holds meanwhile.
struct ServiceDemand {
  double reading = 0;  // seconds to read its prompt, while no other is read
  double seconds = 0;  // of its answer, then
  int64_t slots = 1;
  int64_t pages = 0;          // of keys and values
  int64_t prompt_tokens = 0;  // that count in the queue while it waits
};

// One step, and what passed since the one before when nothing was idle between.
struct StepPace {
  double seconds = 0;
  int decoding = 0;                   // sequences that kept a token or more
  int64_t tokens = 0;                 // that they kept
  int64_t prompt_rows = 0, rows = 0;  // of prompts that were read; all
};

// How fast things go while something runs. Of two equal stretches of time the later one weighs
// more: the past loses half of its weight in about kHalfLife.
class ServicePace {
 public:
  static constexpr double kHalfLife = 2;  // seconds

  void Observe(const StepPace& step);
  // An answer ended by itself after `tokens` of at most `limit`; whether its caller named that
  // limit.
  void ObserveAnswer(int64_t tokens, int64_t limit, bool named);
  // Answers whose callers named no limit, those that run now, have so many tokens on average.
  void ObserveRunning(double unnamed_tokens) { running_unnamed_tokens_ = unnamed_tokens; }
  // The pace of decoding is from now on a guess, which the first measurement outweighs; all else is
  // forgotten.
  void Doubt();

  // Whether the pace of decoding is more than a guess.
  bool is_measured() const;
  // Before anything is known, guesses. Of one sequence among those that decode:
  double SecondsAToken() const;
  // Of all prompts together: steps read one after the other.
  double SecondsAPromptToken() const;
  // How many tokens are still to come when `generated` are there.
  double TokensLeft(int64_t generated, int64_t limit, bool named) const;
  // Of one that has not begun; pages: none.
  ServiceDemand Demand(const RequestSize& size) const;

 private:
  double sequence_seconds_ = 0, tokens_ = 0;     // of decoding
  double prompt_seconds_ = 0, prompt_rows_ = 0;  // of reading prompts
  double named_share_ = 1;                       // of the limit that callers name
  double unnamed_tokens_ = 256;                  // of answers without
  int named_answers_ = 0, unnamed_answers_ = 0;
  double running_unnamed_tokens_ = 0;
};

// Plays a queue forward: who waits starts in order, when enough of what it needs has come free.
// Prompts are read one after the other, in that order, too; answers are made side by side.
class WaitForecast {
 public:
  // Begins anew: what is there, and the requests that hold some of it now.
  void Begin(int64_t slots, int64_t pages, absl::Span<const ServiceDemand> running);
  // One more at the end of the queue. It starts after so many seconds, never before those that
  // were added earlier.
  double Add(const ServiceDemand& demand);

 private:
  double EndOf(const ServiceDemand& demand);

  struct End {
    double when;
    int64_t slots, pages;
    bool operator>(const End& other) const { return when > other.when; }
  };

  std::vector<End> ends_;  // of what holds slots and pages; a heap, the next one first
  int64_t free_slots_ = 0, free_pages_ = 0;
  double now_ = 0;
  double read_until_ = 0;  // prompts of all that have begun
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_WAIT_FORECAST_H_
