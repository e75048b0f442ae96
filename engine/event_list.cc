#include "engine/event_list.h"

#include <utility>

#include "engine/speculation/step_plan.h"
#include "kernels/backend.h"

namespace mambad {

void EventList::Reserve(int events) {
  entries_.resize(events);
  for (Entry& entry : entries_) {
    entry.event.tokens.reserve(kStepTokens);
    entry.event.logprobs.reserve(kStepTokens);
  }
  spare_logprobs_.reserve(events * kStepTokens);
}

TokenEvent& EventList::Add(ActiveRequest& active, int sample) {
  if (count_ == entries_.size()) entries_.emplace_back();
  Entry& entry = entries_[count_++];
  entry.sink = active.sink;
  TokenEvent& event = entry.event;
  event.request = active.id;
  event.index = sample;
  event.tokens.clear();
  event.text.clear();
  for (TokenLogprob& logprob : event.logprobs) spare_logprobs_.push_back(std::move(logprob));
  event.logprobs.clear();
  event.prompt_logprobs.clear();
  if (sample == 0) event.prompt_logprobs.swap(active.prompt_logprobs);
  event.finish = FinishReason::kNone;
  event.matched_stop.clear();
  event.matched_stop_id.reset();
  event.stats.reset();
  event.session.reset();
  return event;
}

TokenLogprob* EventList::AddLogprobs(TokenEvent& event, int64_t count) {
  // As many as all such events of a step may need, at once.
  ++with_logprobs_;
  for (; logprobs_made_ < with_logprobs_ * kStepTokens; ++logprobs_made_)
    spare_logprobs_.emplace_back().alternatives.reserve(kernels::kMaxAlternatives);
  for (int64_t i = 0; i < count; ++i) {
    event.logprobs.push_back(std::move(spare_logprobs_.back()));
    spare_logprobs_.pop_back();
  }
  return event.logprobs.data();
}

void EventList::Tell(absl::FunctionRef<void(RequestId)> pause) {
  for (size_t i = 0; i < count_; ++i) {
    if (!entries_[i].sink->OnEvent(entries_[i].event)) pause(entries_[i].event.request);
    entries_[i].sink.reset();
  }
  count_ = 0;
  with_logprobs_ = 0;
}

}  // namespace mambad
