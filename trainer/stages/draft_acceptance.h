// What a target keeps of its draft's proposals, on text that the target writes.

#ifndef MAMBAD_TRAINER_STAGES_DRAFT_ACCEPTANCE_H_
#define MAMBAD_TRAINER_STAGES_DRAFT_ACCEPTANCE_H_

#include <cstdint>
#include <vector>

#include "trainer/modules/language_model.h"
#include "trainer/stages/speculation_simulation.h"
#include "trainer/token_store.h"

namespace mambad::trainer {

struct AcceptanceOptions {
  int64_t draft_tokens = 5;
  int64_t prompts = 16;        // documents taken from the store, at most
  int64_t prompt_tokens = 64;  // of a document that has no part of its own before an answer
  int64_t answer_tokens = 96;  // written to each, at most
  double temperature = 0;
  uint64_t seed = 1;
};

// A prompt and what `model` wrote to it.
struct WrittenAnswer {
  std::vector<int64_t> tokens;
  int64_t prompt_tokens = 0;  // the first so many
};

// Greedy at temperature 0, else drawn; ends before an end-of-text token of the model.
std::vector<WrittenAnswer> WriteAnswers(const LanguageModel& model, const TokenStore& store,
                                        const AcceptanceOptions& options);

// The target writes, the draft is judged (speculation_simulation.h) as it is served: by what it
// proposes of its proposed_tokens(), with q over these alone. One process.
SpeculationCounts MeasureAcceptance(const LanguageModel& target, const LanguageModel& draft,
                                    const TokenStore& store, const AcceptanceOptions& options);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_DRAFT_ACCEPTANCE_H_
