// What a step is to do, and what came of it: a list of entries, one a sequence. The scheduler makes
// it, drafters fill in their drafts, the decoder runs it and writes the results. Engine thread.

#ifndef MAMBAD_ENGINE_SPECULATION_STEP_PLAN_H_
#define MAMBAD_ENGINE_SPECULATION_STEP_PLAN_H_

#include <array>
#include <cstdint>

#include "engine/answer.h"
#include "engine/options.h"
#include "engine/sequence.h"
#include "kernels/backend.h"

namespace mambad {

// Tokens of one sequence that a step may keep; as many positions may it need beyond those that are
// there.
inline constexpr int64_t kStepTokens = kernels::kMaxWindowRows + 1;

struct StepEntry {
  Sequence* sequence = nullptr;
  Answer* answer = nullptr;  // whose sequence it is; null: nobody's, which only folds
  // Tokens of the backlog to read; all of them: a token is sampled after the last. 0: folds what
  // waits in replay rows into the state, and no more.
  int feed = 0;
  DrafterKind drafter = DrafterKind::kNone;
  int draft_length = 0;  // drafts to verify after the backlog; 0 unless all of it is fed
  int limit = 1;         // tokens that may be kept, >= 1
  // Of the `feed` rows, those whose next token is wanted scored: `scored` rows from row
  // `score_begin` on (prompt log-probabilities).
  int score_begin = 0, scored = 0;
  std::array<TokenId, kMaxDraftLength> lookup;  // kPromptLookup: the drafts

  // Results. Pointers are into the decoder and good until its next Launch.
  int64_t position = 0;  // of the first row fed
  bool sampled = false;
  int draft_rows = 0;  // rows that the draft model ran for it: its own backlog, then drafts
  int accepted = 0;    // drafts accepted before the cut
  int kept = 0;
  const TokenId* tokens = nullptr;  // [kept]
  bool stopped = false;             // the last kept token is a stop id
  int first_result = 0;             // row of the log-probability results of tokens[0]
  int first_score = 0;              // row of the score results of the first scored row

  bool feeds_all() const { return feed == sequence->backlog(); }
  bool samples() const { return feeds_all() && limit > 0; }
  // Of an entry with results: it read the token that was kept last, alone or with drafts. All other
  // rows read prompts, or again what a preempted request had said.
  bool decoded() const { return feed == 1 && position >= answer->prompt_length; }
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SPECULATION_STEP_PLAN_H_
