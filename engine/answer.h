// One sample of a request: the sequence that it continues, and all that ends with the request.
// Owned by its ActiveRequest; engine thread.

#ifndef MAMBAD_ENGINE_ANSWER_H_
#define MAMBAD_ENGINE_ANSWER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "engine/request.h"
#include "engine/sequence.h"
#include "engine/text/detokenizer.h"

namespace mambad {

struct ActiveRequest;

// Tokens of an answer for which all memory is taken before it begins.
inline constexpr int64_t kTextReserve = 4096;

struct Answer {
  ActiveRequest* request = nullptr;
  int index = 0;  // which sample of its request

  // Its tokens: the prompt, then what was kept. Room for the first kTextReserve tokens of the
  // answer is there from the start; a longer one doubles it now and then.
  Sequence sequence;
  int64_t prompt_length = 0;
  int64_t token_limit = 0;  // tokens that the sequence may not pass
  int64_t scored_to = 0;    // rows of the prompt below this one have been scored

  std::optional<text::Detokenizer> detokenizer;  // absent when the model has no tokenizer
  DrafterKind drafter = DrafterKind::kNone;      // chosen for the next step
  bool finished = false;
  RequestStats stats;
  std::string session_digest;  // of the whole sequence, once it has ended and its session is kept

  int64_t generated() const { return sequence.size() - prompt_length; }
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_ANSWER_H_
