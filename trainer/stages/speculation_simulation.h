// How many of a draft's tokens a target keeps, found without decoding speculatively.

#ifndef MAMBAD_TRAINER_STAGES_SPECULATION_SIMULATION_H_
#define MAMBAD_TRAINER_STAGES_SPECULATION_SIMULATION_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mambad::trainer {

struct SpeculationCounts {
  // By position in the draft, from the first: drafts in which the tokens before were accepted, and
  // those of them in which this one was too.
  std::vector<int64_t> reached, accepted;
  int64_t verifications = 0;
  int64_t tokens = 0;  // written by them

  double AcceptanceAt(size_t position) const;  // accepted / reached; 0 when never reached
  double AcceptedShare() const;                // of all tokens proposed
  double TokensPerVerification() const;
};

// Plays speculative decoding over a text that the target wrote. A token y that the target drew from
// p was proposed by a draft that draws from q with the same noise with probability
// 1 / sum_j max(p(j), q(j) p(y) / q(y)), given that y is what came out (kernels/cpu/sampling.h). At
// temperature 0 it is 1 where the draft's best token is y, else 0. The next
// draft begins behind the token that a rejection corrected, or behind the one that follows a draft
// kept whole.
//
// acceptance[text][token] are those probabilities; drafts have `draft_tokens` tokens; one that
// would reach beyond the text's last token but one is left out. Draws are a function of the seed.
SpeculationCounts SimulateSpeculation(const std::vector<std::vector<float>>& acceptance,
                                      int64_t draft_tokens, uint64_t seed);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_SPECULATION_SIMULATION_H_
