// The slots that sequences live in, one number for all that a slot has: the state that each model
// keeps there, and its pages. Engine thread.

#ifndef MAMBAD_ENGINE_STATE_SLOT_TABLE_H_
#define MAMBAD_ENGINE_STATE_SLOT_TABLE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/state/state_pool.h"

namespace mambad {

class SlotTable {
 public:
  // What one sequence needs of a slot: pages for `positions` positions; those before `forked_at` it
  // will get of the sequence that it is forked from (0: none).
  struct Need {
    int64_t positions = 0;
    int64_t forked_at = 0;
    bool clean =
        false;  // nothing of others may be in its pages: an image of it may leave the engine
  };

  // `draft` may be null. Both pools have `slots` slots and outlive the table.
  SlotTable(int slots, StatePool* target, StatePool* draft);

  int total() const { return total_; }
  int free() const { return static_cast<int>(free_.size()); }

  // Whether so many can be taken now.
  bool Fits(absl::Span<const Need> needs) const;
  // A slot with its recurrent states zeroed; Fits must have said that there is one.
  int Take(const Need& need);
  // Gives the slot pages for `wished` positions, at least for `needed`. False: too few are free.
  bool Extend(int slot, int64_t needed, int64_t wished);
  // Frees the pages that the slot has beyond those of `positions` positions.
  void Shrink(int slot, int64_t positions);
  // Whether Extend to so many positions would succeed.
  bool CanExtend(int slot, int64_t positions) const;
  void Release(int slot);
  // Makes `to`, which was taken to be forked at `positions`, what `from` is after so many positions
  // of the target. The draft model reads the text of `to` for itself.
  void Fork(int from, int to, int64_t positions) { target_.Fork(from, to, positions); }

  StatePool& target() { return target_; }
  StatePool* draft() { return draft_; }  // null: no draft model

 private:
  StatePool& target_;
  StatePool* const draft_;
  const int total_;
  std::vector<int> free_;  // the last is taken first
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_STATE_SLOT_TABLE_H_
