// A request that is being served: what was asked, where its news go, its answers. Owned by
// EngineCore; engine thread.

#ifndef MAMBAD_ENGINE_ACTIVE_REQUEST_H_
#define MAMBAD_ENGINE_ACTIVE_REQUEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "engine/answer.h"
#include "engine/request.h"
#include "engine/sessions/prefix_cache.h"

namespace mambad {

// What one point of priority is worth in the queue: so much earlier would a request have come. So
// the range of priorities, 200, is overtaken by ten seconds of waiting, and nothing waits for ever.
inline constexpr absl::Duration kPriorityWorth = absl::Milliseconds(50);

struct ActiveRequest {
  RequestId id = 0;
  Request request;
  std::shared_ptr<EventSink> sink;
  std::vector<TokenId> stop_ids;  // eos and stop ids that end it
  int64_t token_limit = 0;        // tokens of prompt + answer a sequence may reach

  // One a sample; all hold slots while the request runs.
  std::vector<std::unique_ptr<Answer>> answers;
  int unfinished = 0;
  bool forked = false;  // samples beyond the first have their state
  // They hold the prompt's pages together, or will: until it was preempted after its fork.
  bool shares_prompt = true;
  int pauses = 0;  // asked for, less those that ended: it stands still above 0
  bool cancelled = false;
  bool drained = false;  // cancelled because the engine ends
  // Set when the request was preempted and waits again: how many requests had given back their
  // slots by then. It starts anew when one more has.
  std::optional<int64_t> preempted_at;

  // While it waits (engine/request_queue.h).
  absl::Time turn;                         // its place among the others
  std::optional<absl::Time> passed_since;  // when one behind it first started before it
  int64_t charged_tokens = 0;              // what its principal's account was charged for it

  PrefixCache::Places prefix_places;  // where the first sample's state is to be kept

  absl::Time submitted, admitted;
  int64_t prompt_rows_counted = 0;            // rows of the prompt that are in the statistics
  std::vector<TokenLogprob> prompt_logprobs;  // collected while the prompt is read

  // Its place among others: by arrival, which priority moves.
  absl::Time rank() const { return submitted - request.priority * kPriorityWorth; }
  bool GoesBefore(const ActiveRequest& other) const {
    return rank() != other.rank() ? rank() < other.rank() : id < other.id;
  }
  bool scoring() const { return request.score_from.has_value(); }
  // Its length is not known beforehand: pages come as it grows, and it may be preempted.
  bool grows() const { return request.stopping.max_tokens == 0 && !scoring(); }
  // An answer that ends so leaves its session behind.
  bool KeepsSession(FinishReason reason) const {
    if (request.session == nullptr || !request.keep_session) return false;
    const bool by_itself = reason == FinishReason::kEos || reason == FinishReason::kStop ||
                           reason == FinishReason::kLength;
    return by_itself || drained || request.session->was_kept();
  }
  int samples() const { return request.output.samples; }
  // Positions whose state and pages sample `index` will get by a fork; 0: none.
  int64_t ForkedAt(int index) const {
    return index > 0 && !forked ? static_cast<int64_t>(request.prompt.size()) - 1 : 0;
  }
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_ACTIVE_REQUEST_H_
