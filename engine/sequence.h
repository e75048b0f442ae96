// A text in the making and how far each model has read it: what outlives the request that goes on
// with it. Owned by an Answer; engine thread.

#ifndef MAMBAD_ENGINE_SEQUENCE_H_
#define MAMBAD_ENGINE_SEQUENCE_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "engine/read_position.h"
#include "engine/request.h"
#include "engine/speculation/draft_length.h"
#include "engine/speculation/prompt_lookup.h"

namespace mambad {

struct Sequence {
  int slot = -1;  // in the SlotTable; -1: none yet, or returned

  std::vector<TokenId> tokens;
  ReadPosition target, draft;

  std::optional<PromptLookup> lookup;  // present when prompt lookup may be used
  int64_t lookup_read = 0;             // tokens below this one are in it, or are too old
  DraftStatistics draft_statistics;    // acceptance as this sequence has seen it

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  int64_t backlog() const { return size() - target.fed; }
  // Its lookup knows all of the text, and may propose.
  bool lookup_ready() const { return lookup.has_value() && lookup_read == size(); }
  // What was kept of a step.
  void Append(absl::Span<const TokenId> kept) {
    tokens.insert(tokens.end(), kept.begin(), kept.end());
  }
  // After the last step's tokens were cut: takes back what models have read beyond the last one but
  // one, which waits in their replay rows.
  void Trim() {
    for (ReadPosition* position : {&target, &draft}) {
      const int64_t beyond = std::max<int64_t>(0, position->fed - (size() - 1));
      position->fed -= beyond;
      position->replay -= static_cast<int>(beyond);
    }
  }
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SEQUENCE_H_
