// One row of logits as a distribution to draw from; the arithmetic behind sampling.h. Included by
// sampling.cc only.
//
// A TokenDistribution works on one row at a time in one thread's scratch. Passes over the
// vocabulary go block by block; with a pool, its threads share the blocks of the passes that
// outlast waking them (exponentials, penalties). Blocks have a fixed size and their results are
// combined in order, so that both ways give the same bits.

#ifndef MAMBAD_KERNELS_CPU_TOKEN_DISTRIBUTION_H_
#define MAMBAD_KERNELS_CPU_TOKEN_DISTRIBUTION_H_

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace mambad::kernels {

inline constexpr int64_t kVocabularyBlock = 2048;

// A row of logits and where it stands: what decides its distribution.
struct RowContext {
  const float* logits = nullptr;  // [vocabulary]
  const SamplingState* state = nullptr;
  int64_t position = 0;             // of the token that the row decides
  const int32_t* window = nullptr;  // drafts before the row, counted as answer
  int window_count = 0;
};

struct Candidate {
  float logit = 0, weight = 0;
  int32_t id = 0;
};

class TokenDistribution {
 public:
  // Numbers of float size that `memory` must hold for a padded vocabulary of V.
  static int64_t ScratchFloats(int64_t padded_vocabulary);

  // `pool`: nullptr, or threads that share the long passes.
  TokenDistribution(float* memory, ThreadPool* pool, const SamplingTables& tables);

  // The most likely id of the processed row.
  int32_t Greedy(const RowContext& row);

  // Computes the distribution; what follows refers to it until the next call of Compute or Greedy.
  void Compute(const RowContext& row);
  float Probability(int32_t id) const;  // 0 outside the vocabulary
  void Store(float* q);                 // [V]
  int32_t Draw(double uniform);
  int32_t DrawResidual(double uniform,
                       const float* q);  // from max(p - q, 0), or p where that is all zero. Ends this p.

  // Unprocessed log-probabilities of a row. `id` may be anything; alternatives may be nullptr when
  // count is 0.
  float LogProbability(const float* logits, int32_t id, int count, int32_t* alternative_ids,
                       float* alternative_logprobs);

 private:
  template <typename Pass>
  void ForBlocks(ThreadPool* pool, const Pass& pass);  // pass(block, begin, count)
  template <typename Pass>
  double SumBlocks(ThreadPool* pool,
                   const Pass& pass);  // pass(begin, count) -> double; kept in block_sums_
  const float* Process(const RowContext& row);
  float Maximum(const float* x);
  int32_t Fallback(const RowContext& row) const;
  void SetCertain(int32_t id);
  int64_t CollectMostLikely(const float* x, int64_t wanted);
  int64_t CollectHeavy(const float* x, float least_weight);
  int64_t SelectMass(int64_t count, double mass);
  void KeepCandidates(int64_t count, float least_weight);
  int32_t DrawFrom(const float* weights, double total, double uniform) const;

  const SamplingTables& tables_;
  ThreadPool* const pool_;
  const int64_t vocabulary_, blocks_;
  float* const processed_;       // [V] processed logits, later the residual
  float* const weights_;         // [V] p, not normalised
  Candidate* const candidates_;  // [V]
  double* const block_sums_;     // [blocks_]
  double total_ = 0;             // of weights_
  float scale_ = 0;              // p = weights_ * scale_
};

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_TOKEN_DISTRIBUTION_H_
