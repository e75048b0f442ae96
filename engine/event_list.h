// What sinks are to be told, in order, until they are: a step's tokens and what ended beside it.
// Keeps its memory, so that a decode step allocates nothing. Engine thread.

#ifndef MAMBAD_ENGINE_EVENT_LIST_H_
#define MAMBAD_ENGINE_EVENT_LIST_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/active_request.h"
#include "engine/request.h"

namespace mambad {

class EventList {
 public:
  // Room for so many events, each of as many tokens as a step may keep.
  void Reserve(int events);
  // One more, of an answer that goes on: no tokens, no text; of sample 0 with the prompt's
  // log-probabilities, once. Good until the next Add.
  TokenEvent& Add(ActiveRequest& active, int sample);
  // Gives the event that was added last `count` log-probabilities to fill, one a token.
  TokenLogprob* AddLogprobs(TokenEvent& event, int64_t count);
  // Tells the sinks, and of those that say that they have had enough whose they are.
  void Tell(absl::FunctionRef<void(RequestId)> pause);

 private:
  struct Entry {
    std::shared_ptr<EventSink> sink;
    TokenEvent event;
  };
  std::vector<Entry> entries_;  // the first count_ of them are to be told
  size_t count_ = 0;
  int64_t with_logprobs_ = 0;  // of these events
  // Those that no event holds, with their memory; so many were made.
  std::vector<TokenLogprob> spare_logprobs_;
  int64_t logprobs_made_ = 0;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_EVENT_LIST_H_
