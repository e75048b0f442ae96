// Which sequences run in the next step and how many rows each gets. Pure bookkeeping: no device
// calls, no clock, the same plan for the same input. Engine thread.

#ifndef MAMBAD_ENGINE_SCHEDULER_H_
#define MAMBAD_ENGINE_SCHEDULER_H_

#include <vector>

#include "absl/types/span.h"
#include "engine/sequence.h"
#include "engine/speculation/speculative_decoder.h"

namespace mambad {

struct SchedulerLimits {
  int max_rows = 0;        // rows of a step
  int max_logit_rows = 0;  // of them with logits
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits) : limits_(limits) {}

  // Fills `plan` from the running sequences, in their order (oldest first within a priority):
  //   1. every sequence that is decoding gets the row of its last token, so that no prompt makes it
  //   wait;
  //   2. a part of the rows is kept for prompts while any waits: a quarter of the step, at least
  //   one row;
  //   3. drafts take what they were wished (`wished_drafts`, one a sequence) as far as rows reach,
  //   shortest cut first;
  //   4. prompts share the rest, oldest first.
  // A plan with no entries means that nothing can run. Allocates nothing once `plan` has grown.
  void Plan(absl::Span<Sequence* const> running, absl::Span<const int> wished_drafts,
            std::vector<StepEntry>* plan);

 private:
  SchedulerLimits limits_;
  size_t first_decoding_ =
      0;  // where the next step begins when not all decoding sequences fit into one
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SCHEDULER_H_
