#include "engine/request_slots.h"

#include <algorithm>
#include <cstddef>

#include "engine/speculation/step_plan.h"

namespace mambad {
namespace {

// Answers of unknown length get pages for this many tokens at a time.
constexpr int64_t kGrowthTokens = 64;
static_assert(kGrowthTokens >= kStepTokens, "what starts can run a step");

// Positions that a sequence of so many tokens gets pages for when it starts or grows.
int64_t Reservation(const ActiveRequest& active, int64_t tokens) {
  return active.grows() ? std::min(active.token_limit, tokens + kGrowthTokens) : active.token_limit;
}

}  // namespace

std::vector<RequestSlots::Need> RequestSlots::NeedsOf(const ActiveRequest& active) const {
  const bool begun = !active.answers.empty();
  const auto prompt = static_cast<int64_t>(active.request.prompt.size());
  std::vector<Need> needs;
  for (int sample = 0; sample < active.samples(); ++sample) {
    if (begun && active.answers[sample]->finished) continue;
    const int64_t tokens = begun ? active.answers[sample]->sequence.size() : prompt;
    const bool clean = active.request.session != nullptr;
    needs.push_back({Reservation(active, tokens), active.ForkedAt(sample), clean});
  }
  return needs;
}

bool RequestSlots::Fits(const ActiveRequest& active, absl::Span<const Need> needs, int slot) const {
  const bool fits = slot < 0 ? slots_.Fits(needs) : slots_.CanExtend(slot, needs[0].positions);
  return fits && sampler_.HasRoom(active.request.sampling, static_cast<int>(needs.size()));
}

void RequestSlots::Take(ActiveRequest& active, absl::Span<const Need> needs) {
  size_t taken = 0;
  for (const auto& answer : active.answers) {
    if (answer->finished) continue;
    const Need& need = needs[taken++];
    if (answer->sequence.slot < 0) {
      answer->sequence.slot = slots_.Take(need);
    } else {
      slots_.Extend(answer->sequence.slot, need.positions, need.positions);
    }
    Configure(active, *answer);
  }
}

void RequestSlots::Configure(const ActiveRequest& active, const Answer& answer) {
  const Request& request = active.request;
  const SlotSampling sampling = {
      .params = request.sampling,
      .sample = answer.index,
      .logprobs = request.output.logprobs,
      .prompt = request.prompt,
      .answer = absl::MakeConstSpan(answer.sequence.tokens).subspan(answer.prompt_length),
      .stop_ids = active.stop_ids,
      .stop_from = answer.prompt_length + request.stopping.min_tokens,
  };
  sampler_.Configure(answer.sequence.slot, sampling);
}

bool RequestSlots::Grow(ActiveRequest& active) {
  for (const auto& answer : active.answers) {
    if (answer->finished) continue;
    const int64_t tokens = answer->sequence.size();
    const int64_t needed = std::min(active.token_limit, tokens + kStepTokens);
    if (!slots_.Extend(answer->sequence.slot, needed, Reservation(active, tokens))) return false;
  }
  return true;
}

void RequestSlots::Fork(ActiveRequest& active) {
  if (active.forked || active.answers.front()->finished) return;
  const Sequence& first = active.answers.front()->sequence;
  if (first.target.fed < active.answers.front()->prompt_length - 1) return;
  for (size_t i = 1; i < active.answers.size(); ++i) {
    if (active.answers[i]->finished) continue;
    Sequence& sequence = active.answers[i]->sequence;
    slots_.Fork(first.slot, sequence.slot, first.target.fed);
    sequence.target = first.target;
  }
  active.forked = true;
}

void RequestSlots::Rest(const Sequence& sequence) {
  if (sequence.slot >= 0) sampler_.Release(sequence.slot);
}

void RequestSlots::Release(Sequence& sequence) {
  if (sequence.slot < 0) return;
  sampler_.Release(sequence.slot);
  slots_.Release(sequence.slot);
  sequence.slot = -1;
}

}  // namespace mambad
