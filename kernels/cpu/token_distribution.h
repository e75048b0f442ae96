// One row of logits as a distribution, and the race that picks a token from it; the arithmetic
// behind sampling.h.
//
// A TokenDistribution works on one row at a time in one thread's scratch. Passes over the
// vocabulary go block by block; with a pool, its threads share the blocks of the passes that
// outlast waking them (exponentials, penalties, noise). Blocks have a fixed size and their results
// are combined in order, so that both ways give the same bits.

#ifndef MAMBAD_KERNELS_CPU_TOKEN_DISTRIBUTION_H_
#define MAMBAD_KERNELS_CPU_TOKEN_DISTRIBUTION_H_

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/backend.h"
#include "kernels/cpu/philox.h"
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

// Who arrived first so far; of two at the same time the lower id.
struct RaceLeader {
  double time = std::numeric_limits<double>::infinity();
  int32_t id = std::numeric_limits<int32_t>::max();

  void Meet(const RaceLeader& other) {
    if (other.time < time || (other.time == time && other.id < id)) *this = other;
  }
};

inline bool IsStopId(const SamplingState& state, int32_t id) {
  return std::find(state.stop_ids, state.stop_ids + state.stop_count, id) !=
         state.stop_ids + state.stop_count;
}

class TokenDistribution {
 public:
  // Numbers of float size that `memory` must hold for a padded vocabulary of V.
  static int64_t ScratchFloats(int64_t padded_vocabulary);

  // `pool`: nullptr, or threads that share the long passes.
  TokenDistribution(float* memory, ThreadPool* pool, const SamplingTables& tables);

  // The token that the row, its seed, its sample and its position decide.
  int32_t Pick(const RowContext& row);
  // What the last Pick drew from, [vocabulary], normalised. For tests.
  void Probabilities(float* p) const;

  // Unprocessed log-probabilities of a row. `id` may be anything; alternatives may be nullptr when
  // count is 0.
  float LogProbability(const float* logits, int32_t id, int count, int32_t* alternative_ids,
                       float* alternative_logprobs);

 private:
  template <typename Pass>
  void ForBlocks(ThreadPool* pool, const Pass& pass) const;  // pass(block, begin, count)
  void Compute(const RowContext& row);
  void ComputeMostLikely(const RowContext& row, const float* x);
  const float* Process(const RowContext& row);
  float Maximum(const float* x);  // those of blocks are kept in block_maxima_
  int32_t FirstOf(const float* x, float maximum) const;
  int32_t Fallback(const RowContext& row) const;
  void Weigh(const float* x, float maximum, float temperature, float* weights);
  double Total(const float* weights) const;
  int64_t CollectMostLikely(const float* x, int64_t wanted);
  int64_t CollectHeavy(const float* x, float least_weight);
  int64_t SelectMass(int64_t count, double mass);
  void KeepCandidates(int64_t count, float least_weight);
  int32_t RaceOfCandidates(const RaceDraw& draw) const;
  int32_t RaceOfVocabulary(const RaceDraw& draw);

  const SamplingTables& tables_;
  ThreadPool* const pool_;
  const int64_t vocabulary_, blocks_;
  float* const processed_;           // [V] logits after bias, penalties and masks
  float* const weights_;             // [V] p, not normalised
  Candidate* const candidates_;      // [V]
  double* const block_maxima_;       // [blocks_]
  RaceLeader* const block_leaders_;  // [blocks_]
  // What Compute left: all mass on likeliest_; or the first candidates; or weights_.
  bool certain_ = false;
  int64_t candidate_count_ = 0;
  int32_t likeliest_ = 0;
};

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_TOKEN_DISTRIBUTION_H_
