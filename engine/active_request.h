// A request that is being served: what was asked, where its news go, its sequences. Owned by
// EngineCore; engine thread.

#ifndef MAMBAD_ENGINE_ACTIVE_REQUEST_H_
#define MAMBAD_ENGINE_ACTIVE_REQUEST_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "engine/request.h"
#include "engine/sequence.h"

namespace mambad {

struct ActiveRequest {
  RequestId id = 0;
  Request request;
  std::shared_ptr<EventSink> sink;
  std::vector<TokenId> stop_ids;  // eos and stop ids that end it
  int64_t token_limit = 0;        // tokens of prompt + answer a sequence may reach

  std::vector<std::unique_ptr<Sequence>>
      sequences;  // one a sample; all hold slots while the request runs
  int unfinished = 0;
  bool forked = false;  // samples beyond the first have their state
  bool paused = false;
  bool cancelled = false;

  absl::Time submitted, admitted, prefilled, first_token;
  std::vector<TokenLogprob> prompt_logprobs;  // collected while the prompt is read

  bool scoring() const { return request.score_from.has_value(); }
  int samples() const { return request.output.samples; }
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_ACTIVE_REQUEST_H_
