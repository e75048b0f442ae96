// Logits -> distribution -> token, drafts' acceptance, log-probabilities, on the device. The rules
// are those of kernels/backend.h (SamplingState, DraftSampling, Acceptance, TokenScoring) and, step
// by step, of kernels/cpu/sampling.h: the same noise, the same float formulas; a seed draws the
// same token as on the CPU but where two arrive within rounding of each other.
//
// All functions only enqueue on `stream` and may be captured. Requests, tables and results are host
// values whose arrays are device memory; how much there is of them (slots, draft lengths, rows) is
// read on the device. No result depends on the other rows of a call nor on a launch's shape.

#ifndef MAMBAD_KERNELS_CUDA_SAMPLING_H_
#define MAMBAD_KERNELS_CUDA_SAMPLING_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "kernels/backend.h"

namespace mambad::kernels::cuda {

// What the passes over a row tell each other. Of one stream at a time.
struct SamplingScratch {
  Buffer memory;
  int64_t rows = 0;    // that may be sampled at once
  int64_t slices = 0;  // of a row
};

// For calls of at most `max_sequences` sequences, whose windows are among `max_rows` rows of
// logits. `allocate` gives device memory aligned to 16 bytes at least.
SamplingScratch CreateSamplingScratch(int max_sequences, int max_rows, int64_t padded_vocabulary,
                                      const std::function<Buffer(size_t bytes)>& allocate);

// `logits` rows hold at least `vocabulary` numbers; what stands beyond is not read.
void SampleDraftTokens(cudaStream_t stream, const DraftSampling& request,
                       const SamplingTables& tables, const RowsView& logits,
                       SamplingScratch& scratch);

// Entries of result.tokens and of the log-probabilities from `kept` on are not written.
// Alternatives are the most likely first, lowest id among equals; places for which there is no
// possible id hold -1 and -infinity. `longest_draft`: no entry of request.draft_length is larger;
// to say it saves blocks that find nothing to do.
void AcceptDrafts(cudaStream_t stream, const Acceptance& request, const SamplingTables& tables,
                  const RowsView& logits, const AcceptanceResult& result, SamplingScratch& scratch,
                  int longest_draft = kMaxWindowRows);

// As AcceptDrafts' log-probabilities. -infinity for tokens outside the vocabulary.
void ScoreTokens(cudaStream_t stream, const TokenScoring& request, const SamplingTables& tables,
                 const RowsView& logits, SamplingScratch& scratch);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_SAMPLING_H_
