// What a request holds while it runs: for each of its samples a slot with pages, and rows of the
// sampler's tables where its parameters need any. Taken for all samples together or not at all;
// given back by each as it ends. Engine thread.

#ifndef MAMBAD_ENGINE_REQUEST_SLOTS_H_
#define MAMBAD_ENGINE_REQUEST_SLOTS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/active_request.h"
#include "engine/sampler.h"
#include "engine/sequence.h"
#include "engine/state/slot_table.h"

namespace mambad {

class RequestSlots {
 public:
  using Need = SlotTable::Need;

  // Both outlive it.
  RequestSlots(SlotTable& slots, Sampler& sampler) : slots_(slots), sampler_(sampler) {}

  int free() const { return slots_.free(); }

  // What the samples need that have not ended, in their order: all of them, where they have not
  // begun. The request's token limit must be known.
  std::vector<Need> NeedsOf(const ActiveRequest& active) const;
  // Whether all of it is free now. `slot`: one that the first sample has already, with some of its
  // pages; -1: none has.
  bool Fits(const ActiveRequest& active, absl::Span<const Need> needs, int slot = -1) const;
  // Takes it, when it fits; the answers are there by now, and the first may have a slot. One that
  // was preempted goes on with the tokens that its samples have: they are its backlog.
  void Take(ActiveRequest& active, absl::Span<const Need> needs);
  // Gives a request of unknown length the pages that its next step may need. False: too few are
  // free for one of its samples; what others got meanwhile they keep.
  bool Grow(ActiveRequest& active);
  // Samples share the reading of the prompt up to its last token, which each then reads for itself:
  // once the first has come so far, the others get what it has.
  void Fork(ActiveRequest& active);
  // Of a sequence that holds nothing: does nothing.
  void Release(Sequence& sequence);
  // The sequence keeps its slot, in which nothing is sampled for now.
  void Rest(const Sequence& sequence);

 private:
  void Configure(const ActiveRequest& active, const Answer& answer);

  SlotTable& slots_;
  Sampler& sampler_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_REQUEST_SLOTS_H_
