// One answer in the making: its tokens and how far each model has read them. Owned by EngineCore;
// engine thread.

#ifndef MAMBAD_ENGINE_SEQUENCE_H_
#define MAMBAD_ENGINE_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "engine/speculation/draft_length.h"
#include "engine/speculation/prompt_lookup.h"
#include "engine/text/detokenizer.h"

namespace mambad {

struct ActiveRequest;

// How far one model has read a sequence: `fed` tokens. All but the last `replay` of them are in the
// checkpoint, those wait in the replay rows (kernels/backend.h).
struct ReadPosition {
  int64_t fed = 0;
  int replay = 0;
};

// Tokens of an answer for which all memory is taken before it begins.
inline constexpr int64_t kTextReserve = 4096;

struct Sequence {
  ActiveRequest* request = nullptr;
  int index = 0;  // which sample of its request
  int slot = -1;  // -1: none yet, or returned

  // Prompt, then what was kept. Room for the first kTextReserve tokens of the answer is there from
  // the start; a longer one doubles it now and then.
  std::vector<TokenId> tokens;
  int64_t prompt_length = 0;
  int64_t token_limit = 0;  // tokens.size() may not pass this
  int64_t scored_to = 0;    // rows of the prompt below this one have been scored
  ReadPosition target, draft;

  std::optional<text::Detokenizer> detokenizer;  // absent when the model has no tokenizer
  std::optional<PromptLookup> lookup;            // present when prompt lookup may be used
  int64_t lookup_read = 0;                       // tokens below this one are in it, or are too old
  DraftStatistics draft_statistics;              // acceptance as this sequence has seen it
  DrafterKind drafter = DrafterKind::kNone;      // chosen for the next step

  bool finished = false;
  RequestStats stats;

  int64_t backlog() const { return static_cast<int64_t>(tokens.size()) - target.fed; }
  // Its lookup knows all of the text, and may propose.
  bool lookup_ready() const {
    return lookup.has_value() && lookup_read == static_cast<int64_t>(tokens.size());
  }
  int64_t generated() const { return static_cast<int64_t>(tokens.size()) - prompt_length; }
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SEQUENCE_H_
