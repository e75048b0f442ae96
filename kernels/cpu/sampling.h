// Logits -> distribution -> token, drafts' acceptance, log-probabilities. Arithmetic of
// SampleDrafts, Accept and Score.
//
// THE DISTRIBUTION of one row, over the ids [0, vocabulary) only:
//   1. logit + bias; divided (positive) or multiplied (negative) by repetition_penalty where the id
//      stands in the prompt or answer; less frequency_penalty * occurrences + presence_penalty
//      where it stands in the answer; drafts of the window before the row count as answer. Stop ids
//      are impossible for positions below stop_from.
//   2. temperature 0: all mass on the most likely id. Otherwise softmax of (1) / temperature, then
//      in this order top_k: the k most likely; top_p: the fewest most likely whose share of what
//      top_k left reaches top_p, at least one; min_p: those at least min_p times as likely as the
//      most likely. Then renormalised.
// Ranks are by the logit of (1), lowest id first among equals. NaN counts as -infinity; +infinity
// as the largest float. When nothing is possible, all mass is on the lowest id that neither bias
// nor stop_from forbids.
//
// THE TOKEN of one row, of temperature above 0: a race. Every id arrives after a time that is
// exponentially distributed with its probability as rate, and the first to arrive is the token, the
// lowest id where two arrive together (the exponential race, or Gumbel-max trick). The noise of
// an id is a word of Philox (kernels/cpu/philox.h) by (seed; sample, position, id), and nothing
// else: not by drafts, rounds, company or threads. A draft model races with the same noise, and so
// proposes what the target draws wherever the two distributions agree (Gumbel coupling).
//
// ACCEPTANCE. A draft stays if it is the token of the row before it. What is kept is therefore what
// decoding one token a round keeps, whatever was drafted.
//
// Every sum has one order: results are the same bits for any number of threads and any company in
// the batch. Nothing here allocates but CreateSamplingScratch.

#ifndef MAMBAD_KERNELS_CPU_SAMPLING_H_
#define MAMBAD_KERNELS_CPU_SAMPLING_H_

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace mambad::kernels {

// Scratch of one thread: distributions of one row. Allocated once.
struct SamplingScratch {
  Buffer memory;
  int64_t floats_per_thread = 0;
};
SamplingScratch CreateSamplingScratch(int threads, int64_t padded_vocabulary);
int64_t SamplingScratchBytes(int threads, int64_t padded_vocabulary);

// `logits` rows hold at least `vocabulary` numbers; what stands beyond is not read.
void SampleDraftTokens(ThreadPool& pool, const DraftSampling& request, const SamplingTables& tables,
                       const RowsView& logits, SamplingScratch& scratch);

// Entries of result.tokens and of the log-probabilities from `kept` on are not written.
// Alternatives are the most likely first, lowest id among equals; places for which there is no
// possible id hold -1 and -infinity.
void AcceptDrafts(ThreadPool& pool, const Acceptance& request, const SamplingTables& tables,
                  const RowsView& logits, const AcceptanceResult& result, SamplingScratch& scratch);

// As AcceptDrafts' log-probabilities. -infinity for tokens outside the vocabulary.
void ScoreTokens(ThreadPool& pool, const TokenScoring& request, const SamplingTables& tables,
                 const RowsView& logits, SamplingScratch& scratch);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_SAMPLING_H_
