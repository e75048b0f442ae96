// Logits -> distribution -> token, drafts' acceptance, log-probabilities. Arithmetic of SampleDrafts, Accept and Score.

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

void SampleDraftTokens(ThreadPool& pool, const DraftSampling& request, const SamplingTables& tables,
                       const RowsView& logits, SamplingScratch& scratch);
void AcceptDrafts(ThreadPool& pool, const Acceptance& request, const SamplingTables& tables, const RowsView& logits,
                  const AcceptanceResult& result, SamplingScratch& scratch);
void ScoreTokens(ThreadPool& pool, const TokenScoring& request, const SamplingTables& tables, const RowsView& logits,
                 SamplingScratch& scratch);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_SAMPLING_H_
