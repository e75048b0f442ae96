// What an engine tells of itself: counters and gauges, reports of steps, the end of its device.

#ifndef MAMBAD_ENGINE_ENGINE_STATS_H_
#define MAMBAD_ENGINE_ENGINE_STATS_H_

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace mambad {

// What became of sessions' states, and of states at the beginnings of prompts.
struct SessionCounters {
  int64_t parks = 0;           // states that left their slots
  int64_t restores = 0;        // states that came back into one
  int64_t evictions = 0;       // states given up for want of room: their texts are read again
  int64_t snapshot_bytes = 0;  // copied out of slots
  int64_t prefix_lookups = 0;  // prompts that may go on from others' beginnings
  int64_t prefix_hits = 0;     // and did
  int64_t prefix_tokens = 0;   // of them, that need not be read
  int64_t prefix_bytes = 0;    // that such states take now
};

// A snapshot of counters and gauges; cheap, from any thread. Counters never fall.
struct EngineStats {
  int running = 0, waiting = 0, slots_used = 0, slots_total = 0;
  int64_t pages_used = 0, pages_total = 0;
  int64_t waiting_tokens = 0;
  int64_t state_bytes = 0;       // of slots and pages in use
  int recorded_rounds = 0;       // that the device keeps, to start them as a whole
  int64_t round_recordings = 0;  // made so far
  // prompt_tokens: read by the target, once a request, however many samples or readings it takes.
  int64_t prompt_tokens = 0, cached_prompt_tokens = 0, generation_tokens = 0;
  int64_t draft_rounds = 0, draft_tokens = 0, accepted_tokens = 0;
  std::vector<int64_t> accepted_per_position;
  // draft_seconds: the draft model's. The target's time goes to prefill and verify (decoding, plain
  // or not) by their rows in each step.
  double draft_seconds = 0, verify_seconds = 0, prefill_seconds = 0;
  int64_t preemptions = 0;                               // requests interrupted for want of pages
  int64_t steps = 0, step_rows = 0, step_sequences = 0;  // sums over steps
  double step_seconds = 0;
  // Over about the last 10 s before the call; 0 when nothing ran in them.
  double generation_tokens_per_second = 0;
  double acceptance_rate = 0;  // accepted / drafted; 0 without drafts
  bool speculation_enabled = false;
  int64_t self_check_failures = 0;
  SessionCounters sessions;
};

// The device's memory as it says itself, bytes; -1: it does not say.
struct MemoryUse {
  int64_t total = -1, free = -1;
};

// Called on the engine thread after every step; must not block. For histograms.
struct StepReport {
  int sequences = 0, rows = 0, prefill_rows = 0,
      draft_length = 0;  // draft_length: longest of the step
  double draft_seconds = 0, verify_seconds = 0, total_seconds = 0;
};
// A session's state that came back into a slot.
struct SessionRestore {
  bool from_file = false;  // else from host memory
  double seconds = 0;      // since it was asked for
};
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual void OnStep(const StepReport& report) = 0;
  // On the same thread, between two steps.
  virtual void OnSessionRestored(const SessionRestore&) {}
};

// The device is lost, in words: nothing that runs will come to an end. On the thread that opens the
// engine, or on the engine thread. Ends the process; should it return, the device's backend does.
using DeviceLostHandler = std::function<void(std::string_view words)>;

}  // namespace mambad

#endif  // MAMBAD_ENGINE_ENGINE_STATS_H_
