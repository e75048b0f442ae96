// Log-probabilities, a block a row: its largest logit, the sum of its weights, and the rank of the
// last alternative, each in a pass or a few.

#include <cmath>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/log_probabilities.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/token_cut.cuh"
#include "kernels/cuda/token_distribution.cuh"

namespace mambad::kernels::cuda {
namespace {

static_assert(kMaxAlternatives <= kCutCandidates && kMaxAlternatives <= kCutThreads,
              "alternatives are compared with each other, a thread each");

// The entry of one token: where its numbers go.
struct ScoredToken {
  int32_t token = 0;
  int alternatives = 0;  // 0 .. kMaxAlternatives
  float* logprob = nullptr;
  int32_t* ids = nullptr;     // [alternatives]
  float* logprobs = nullptr;  // [alternatives]
};

// What turns logits of a row into log-probabilities.
struct LogSoftmax {
  bool possible = false;
  double maximum = 0, log_total = 0;

  __device__ float operator()(float x) const {
    if (!possible || !(x > Impossible())) return Impossible();
    return static_cast<float>((static_cast<double>(fminf(x, FLT_MAX)) - maximum) - log_total);
  }
};

// The ids of rank `least_rank` at least, of which there are kMaxAlternatives at most, in order.
__device__ void PlaceAlternatives(const AdjustedLogits& row, const ScoredToken& scored,
                                  const LogSoftmax& log_softmax, uint64_t least_rank,
                                  CutScratch& scratch) {
  if (threadIdx.x == 0) scratch.count = 0;
  __syncthreads();
  if (log_softmax.possible) {
    ForPossibleIds(row, [&](float x, int32_t id) {
      const uint64_t rank = RankOf(x, id);
      if (rank >= least_rank) scratch.ranks[atomicAdd(&scratch.count, 1)] = rank;
    });
  }
  __syncthreads();
  const int found = scratch.count, i = threadIdx.x;
  if (i >= scored.alternatives) return;
  if (i >= found) {
    scored.ids[i] = -1;
    scored.logprobs[i] = Impossible();
    return;
  }
  const uint64_t rank = scratch.ranks[i];
  int place = 0;
  for (int j = 0; j < found; ++j) place += scratch.ranks[j] > rank ? 1 : 0;
  scored.ids[place] = IdOfRank(rank);
  scored.logprobs[place] = log_softmax(LogitOfRank(rank));
}

// All threads of the block call it, once.
__device__ void Score(const float* logits, int vocabulary, const ScoredToken& scored,
                      CutScratch& scratch) {
  AdjustedLogits row;  // as they are
  row.vocabulary = vocabulary;
  row.logits = logits;
  uint64_t best = 0;
  ForPossibleIds(row, [&](float x, int32_t id) { best = max(best, RankOf(x, id)); });
  best = BlockReduce(best, scratch.warps, LargerRank());
  LogSoftmax log_softmax;
  log_softmax.possible = best >= kLeastPossible;
  uint64_t least_rank = 0;
  if (log_softmax.possible) {
    const Weights weights = WeightsOf(best, 1.0f);
    const float scale = MassScale(vocabulary);
    uint64_t total = 0;
    ForPossibleIds(row, [&](float x, int32_t) { total += MassOf(weights.Of(x), scale); });
    total = BlockReduce(total, scratch.warps, MassSum());
    log_softmax.maximum = weights.maximum;
    log_softmax.log_total = log(static_cast<double>(total) / static_cast<double>(scale));
    if (scored.alternatives > 0) {
      const auto wanted = static_cast<uint64_t>(scored.alternatives);
      least_rank = RankOfCut(
          row, weights, 0, [](float) { return uint64_t{1}; }, [wanted](uint64_t) { return wanted; },
          scratch);
    }
  }
  if (threadIdx.x == 0) {
    const bool inside = scored.token >= 0 && scored.token < vocabulary;
    *scored.logprob = inside ? log_softmax(logits[scored.token]) : Impossible();
  }
  if (scored.alternatives > 0) {
    PlaceAlternatives(row, scored, log_softmax, least_rank, scratch);
  }
}

__device__ void GiveAlternatives(int count, int64_t entry, int32_t* ids, float* logprobs,
                                 ScoredToken* scored) {
  scored->alternatives = min(max(count, 0), kMaxAlternatives);
  if (scored->alternatives == 0) return;
  scored->ids = ids + entry * kMaxAlternatives;
  scored->logprobs = logprobs + entry * kMaxAlternatives;
}

// Blocks: rows of a window x sequences.
__global__ void __launch_bounds__(kCutThreads)
    ScoreKept(const Acceptance request, const SamplingTables tables, const RowsView logits,
              const AcceptanceResult result) {
  __shared__ CutScratch scratch;
  const int sequence = blockIdx.y, row = blockIdx.x;
  const int32_t slot = request.slot[sequence];
  if (slot < 0 || row >= result.kept[sequence]) return;
  const int alternatives = tables.states[slot].alternatives;
  if (alternatives < 0) return;
  const int64_t entry = int64_t{sequence} * (kMaxWindowRows + 1) + row;
  ScoredToken scored;
  scored.token = result.tokens[entry];
  scored.logprob = result.logprobs + entry;
  GiveAlternatives(alternatives, entry, result.alternative_ids, result.alternative_logprobs,
                   &scored);
  Score(logits.data + (int64_t{request.logit_begin[sequence]} + row) * logits.stride,
        tables.vocabulary, scored, scratch);
}

// Blocks: tokens.
__global__ void __launch_bounds__(kCutThreads)
    ScoreGiven(const TokenScoring request, const SamplingTables tables, const RowsView logits) {
  __shared__ CutScratch scratch;
  const int64_t entry = blockIdx.x;
  ScoredToken scored;
  scored.token = request.token[entry];
  scored.logprob = request.logprobs + entry;
  GiveAlternatives(request.alternatives, entry, request.alternative_ids,
                   request.alternative_logprobs, &scored);
  Score(logits.data + request.logit_row[entry] * logits.stride, tables.vocabulary, scored, scratch);
}

}  // namespace

void LogProbabilitiesOfKept(cudaStream_t stream, const Acceptance& request,
                            const SamplingTables& tables, const RowsView& logits,
                            const AcceptanceResult& result, int window) {
  const dim3 blocks(static_cast<unsigned>(window), static_cast<unsigned>(request.sequences));
  ScoreKept<<<blocks, kCutThreads, 0, stream>>>(request, tables, logits, result);
  CheckLaunch("ScoreKept");
}

void ScoreTokens(cudaStream_t stream, const TokenScoring& request, const SamplingTables& tables,
                 const RowsView& logits, SamplingScratch&) {
  if (request.count == 0) return;
  if (tables.vocabulary < 1 || tables.vocabulary > logits.columns) {
    Fail("ScoreTokens", {tables.vocabulary, logits.columns});
  }
  ScoreGiven<<<request.count, kCutThreads, 0, stream>>>(request, tables, logits);
  CheckLaunch("ScoreGiven");
}

}  // namespace mambad::kernels::cuda
