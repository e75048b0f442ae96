// Which sequences run in the next step and how many rows each gets. Pure bookkeeping: no device
// calls, no clock, the same plan for the same input. Engine thread.

#ifndef MAMBAD_ENGINE_SCHEDULER_H_
#define MAMBAD_ENGINE_SCHEDULER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/answer.h"
#include "engine/speculation/step_plan.h"

namespace mambad {

// Positions at which states of prompts are kept for later, multiples of this.
inline constexpr int64_t kPromptGrid = 256;
// Where none are kept: long chunks, which a GPU reads much faster than short ones.
inline constexpr int64_t kOpenPromptGrid = 1024;

struct SchedulerLimits {
  int max_rows = 0;        // rows of a step
  int max_logit_rows = 0;  // of them with logits
  int64_t prompt_grid =
      kPromptGrid;  // no chunk of a prompt crosses a multiple of so many positions
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits) : limits_(limits) {}

  // Fills `plan` from the running answers, given in their order (oldest first within a priority).
  //
  // Decoding sequences come first: each gets the row of its last token, so that no prompt makes it
  // wait. A part of the rows is kept for prompts while any waits: a quarter of the step, at least
  // one row. Drafts take what they were wished (`wished_drafts`, one a sequence) as far as rows
  // reach, shortest cut first. Of the rest the oldest prompt gets half and what the others do not
  // need; they get theirs the shortest first, so that none holds up all that come after it.
  //
  // A plan with no entries means that nothing can run. Allocates nothing once `plan` has grown.
  void Plan(absl::Span<Answer* const> running, absl::Span<const int> wished_drafts,
            std::vector<StepEntry>* plan);

 private:
  // What is left of the step.
  struct Room {
    int rows = 0, logit_rows = 0;
  };
  void PlanDecoding(absl::Span<Answer* const> running, absl::Span<const int> wished_drafts,
                    int decoding, int kept_for_prompts, Room* room, std::vector<StepEntry>* plan);
  void CutDrafts(int kept_for_prompts, Room* room, std::vector<StepEntry>* plan) const;
  void PlanPrompts(Room* room, std::vector<StepEntry>* plan);

  SchedulerLimits limits_;
  // Where the next step begins when not all decoding sequences fit into one.
  size_t first_decoding_ = 0;
  std::vector<Answer*> prompts_;  // of this plan; the oldest first
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SCHEDULER_H_
