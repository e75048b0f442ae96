#include "kernels/cpu/sampling.h"

// clang-format off: the order matters.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/sampling.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/vocabulary_passes-inl.h"
// clang-format on

#if HWY_ONCE

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "kernels/cpu/philox.h"
#include "kernels/cpu/token_distribution.h"

namespace mambad::kernels {
namespace {

HWY_EXPORT(BlockMaximum);
HWY_EXPORT(FindAbove);
HWY_EXPORT(BlockSum);
HWY_EXPORT(BlockWeights);
HWY_EXPORT(BlockScale);
HWY_EXPORT(BlockResidual);
HWY_EXPORT(BlockPenalise);

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

// One sequence's vocabulary is shared by threads only where a pass outlasts waking them.
constexpr int64_t kSharedVocabulary = 32768;

bool IsStopId(const SamplingState& state, int32_t id) {
  return std::find(state.stop_ids, state.stop_ids + state.stop_count, id) !=
         state.stop_ids + state.stop_count;
}

bool MasksStops(const RowContext& row) {
  return row.state->stop_count > 0 && row.position < row.state->stop_from;
}

bool HasPenalties(const SamplingState& state) {
  return state.counts_row >= 0 && (state.repetition_penalty != 1 || state.presence_penalty != 0 ||
                                   state.frequency_penalty != 0);
}

// Scalar twin of BlockPenalise.
float PenalisedLogit(float logit, const float* bias, uint32_t word, const SamplingState& state) {
  float x = bias != nullptr ? logit + *bias : logit;
  if (word != 0) x = x > 0 ? x / state.repetition_penalty : x * state.repetition_penalty;
  const auto times = static_cast<float>(static_cast<int32_t>(word & 0x7fffffffu));
  if (times > 0) x = (x - state.frequency_penalty * times) - state.presence_penalty;
  return x;
}

bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

}  // namespace

// ---- one row ------------------------------------------------------------------------------------

int64_t TokenDistribution::ScratchFloats(int64_t padded_vocabulary) {
  const int64_t row = (padded_vocabulary + 15) / 16 * 16;
  const int64_t blocks = (padded_vocabulary + kVocabularyBlock - 1) / kVocabularyBlock;
  return 5 * row + (2 * blocks + 15) / 16 * 16;
}

TokenDistribution::TokenDistribution(float* memory, ThreadPool* pool, const SamplingTables& tables)
    : tables_(tables),
      pool_(pool),
      vocabulary_(tables.vocabulary),
      blocks_((vocabulary_ + kVocabularyBlock - 1) / kVocabularyBlock),
      processed_(memory),
      weights_(memory + (int64_t{tables.padded_vocabulary} + 15) / 16 * 16),
      candidates_(reinterpret_cast<Candidate*>(weights_ + (weights_ - processed_))),
      block_sums_(reinterpret_cast<double*>(memory + 5 * (weights_ - processed_))) {}

template <typename Pass>
void TokenDistribution::ForBlocks(ThreadPool* pool, const Pass& pass) {
  const auto some = [&](int64_t first, int64_t last, int) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kVocabularyBlock;
      pass(block, begin, std::min(kVocabularyBlock, vocabulary_ - begin));
    }
  };
  if (pool == nullptr) {
    some(0, blocks_, 0);
  } else {
    pool->Split(blocks_, 1, some);
  }
}

template <typename Pass>
double TokenDistribution::SumBlocks(ThreadPool* pool, const Pass& pass) {
  ForBlocks(pool, [&](int64_t block, int64_t begin, int64_t count) {
    block_sums_[block] = pass(begin, count);
  });
  double total = 0;
  for (int64_t block = 0; block < blocks_; ++block) total += block_sums_[block];
  return total;
}

// The row's logits after bias, penalties and masks: the logits themselves where nothing changes
// them.
const float* TokenDistribution::Process(const RowContext& row) {
  const SamplingState& state = *row.state;
  const bool penalties = HasPenalties(state), stops = MasksStops(row);
  if (!penalties && !stops && state.bias_row < 0) return row.logits;
  const int64_t stride = tables_.padded_vocabulary;
  const float* bias = state.bias_row >= 0 ? tables_.bias + state.bias_row * stride : nullptr;
  const int32_t* counts = penalties ? tables_.counts + state.counts_row * stride : nullptr;
  ForBlocks(pool_, [&](int64_t, int64_t begin, int64_t count) {
    HWY_DYNAMIC_DISPATCH(BlockPenalise)
    (row.logits + begin, count, bias != nullptr ? bias + begin : nullptr,
     counts != nullptr ? counts + begin : nullptr, state.repetition_penalty, state.presence_penalty,
     state.frequency_penalty, processed_ + begin);
  });
  for (int i = 0; penalties && i < row.window_count; ++i) {
    const int32_t id = row.window[i];
    if (id < 0 || id >= vocabulary_) continue;
    const auto drafted =
        static_cast<uint32_t>(std::count(row.window, row.window + row.window_count, id));
    processed_[id] = PenalisedLogit(row.logits[id], bias != nullptr ? bias + id : nullptr,
                                    static_cast<uint32_t>(counts[id]) + drafted, state);
  }
  for (int i = 0; stops && i < state.stop_count; ++i) {
    const int32_t id = state.stop_ids[i];
    if (id >= 0 && id < vocabulary_) processed_[id] = kImpossible;
  }
  return processed_;
}

float TokenDistribution::Maximum(const float* x) {
  ForBlocks(nullptr, [&](int64_t block, int64_t begin, int64_t count) {
    block_sums_[block] = HWY_DYNAMIC_DISPATCH(BlockMaximum)(x + begin, count);
  });
  return static_cast<float>(*std::max_element(block_sums_, block_sums_ + blocks_));
}

int32_t TokenDistribution::Fallback(const RowContext& row) const {
  const SamplingState& state = *row.state;
  const float* bias = state.bias_row >= 0
                          ? tables_.bias + int64_t{state.bias_row} * tables_.padded_vocabulary
                          : nullptr;
  int32_t allowed = -1;
  for (int32_t id = 0; id < vocabulary_; ++id) {
    if (bias != nullptr && !(bias[id] > kImpossible)) continue;
    if (!MasksStops(row) || !IsStopId(state, id)) return id;
    if (allowed < 0) allowed = id;
  }
  return std::max(allowed, 0);
}

int32_t TokenDistribution::Greedy(const RowContext& row) {
  const float* x = Process(row);
  const float maximum = Maximum(x);
  if (!(maximum > kImpossible)) return Fallback(row);
  const int64_t block =
      std::find(block_sums_, block_sums_ + blocks_, double{maximum}) - block_sums_;
  const int64_t begin = block * kVocabularyBlock;
  return static_cast<int32_t>(
      HWY_DYNAMIC_DISPATCH(FindAbove)(x, begin, vocabulary_, maximum, true));
}

void TokenDistribution::SetCertain(int32_t id) {
  std::fill(weights_, weights_ + vocabulary_, 0.0f);
  std::fill(block_sums_, block_sums_ + blocks_, 0.0);
  weights_[id] = 1;
  block_sums_[id / kVocabularyBlock] = 1;
  total_ = 1;
  scale_ = 1;
}

void TokenDistribution::Compute(const RowContext& row) {
  const SamplingState& state = *row.state;
  if (!(state.temperature > 0)) return SetCertain(Greedy(row));
  const float* x = Process(row);
  const bool top_k = state.top_k > 0 && state.top_k < vocabulary_,
             top_p = state.top_p < 1;  // NaN: off
  const float min_p = state.min_p > 0 ? std::min(state.min_p, 1.0f) : 0.0f;
  int64_t count = 0;
  if (top_k) {
    count = CollectMostLikely(x, state.top_k);
    if (count == 0) return SetCertain(Fallback(row));
    float* gathered = weights_;
    float maximum = kImpossible;
    for (int64_t i = 0; i < count; ++i) {
      gathered[i] = candidates_[i].logit;
      maximum = std::max(maximum, gathered[i]);
    }
    maximum = std::clamp(maximum, std::numeric_limits<float>::lowest(),
                         std::numeric_limits<float>::max());
    total_ =
        HWY_DYNAMIC_DISPATCH(BlockWeights)(gathered, count, maximum, state.temperature, gathered);
    for (int64_t i = 0; i < count; ++i) candidates_[i].weight = gathered[i];
  } else {
    const float maximum = Maximum(x);
    if (!(maximum > kImpossible)) return SetCertain(Fallback(row));
    const float bounded = std::min(maximum, std::numeric_limits<float>::max());
    total_ = SumBlocks(pool_, [&](int64_t begin, int64_t size) {
      return HWY_DYNAMIC_DISPATCH(BlockWeights)(x + begin, size, bounded, state.temperature,
                                                weights_ + begin);
    });
    if (top_p || min_p > 0) {
      // Ids lighter than this weigh less than half of 1 - top_p together: the wanted ones are among
      // the others.
      const double light =
          top_p ? 0.5 * (1 - std::max(0.0, static_cast<double>(state.top_p))) * total_ / vocabulary_
                : 0;
      count = CollectHeavy(x, std::max(static_cast<float>(light), min_p));
    }
  }
  if (top_p) count = SelectMass(count, state.top_p * total_);
  if (count > 0) KeepCandidates(count, min_p);
  scale_ = static_cast<float>(1 / total_);
}

// The `wanted` most likely ids of x, in no order, into candidates_; fewer when fewer are possible.
// One pass with a threshold that rises whenever twice the wanted ones have been met.
int64_t TokenDistribution::CollectMostLikely(const float* x, int64_t wanted) {
  const int64_t room = std::min(vocabulary_, std::max<int64_t>(2 * wanted, 64));
  int64_t count = 0;
  float threshold = kImpossible;
  const auto shrink = [&] {
    if (count <= wanted) return;
    std::nth_element(candidates_, candidates_ + wanted - 1, candidates_ + count, MoreLikely);
    count = wanted;
    threshold = candidates_[wanted - 1].logit;
  };
  for (int64_t id = 0; id < vocabulary_; ++id) {
    id = HWY_DYNAMIC_DISPATCH(FindAbove)(x, id, vocabulary_, threshold, false);
    if (id == vocabulary_) break;
    candidates_[count++] = {x[id], 0, static_cast<int32_t>(id)};
    if (count == room) shrink();
  }
  shrink();
  return count;
}

// The ids whose weight is at least `least_weight` and not 0, by id, into candidates_.
int64_t TokenDistribution::CollectHeavy(const float* x, float least_weight) {
  const float threshold = std::max(least_weight, std::numeric_limits<float>::denorm_min());
  int64_t count = 0;
  for (int64_t id = 0; id < vocabulary_; ++id) {
    id = HWY_DYNAMIC_DISPATCH(FindAbove)(weights_, id, vocabulary_, threshold, true);
    if (id == vocabulary_) break;
    candidates_[count++] = {x[id], weights_[id], static_cast<int32_t>(id)};
  }
  return count;
}

// Moves the fewest most likely of `count` candidates whose weights reach `mass` to the front and
// returns how many; at least one. Halves the range that holds the last of them: linear time.
int64_t TokenDistribution::SelectMass(int64_t count, double mass) {
  int64_t low = 0,
          high = count;  // the answer is in [low, high]; weights before low make up `before`
  double before = 0;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    std::nth_element(candidates_ + low, candidates_ + middle - 1, candidates_ + high, MoreLikely);
    double part = 0;
    for (int64_t i = low; i < middle; ++i) part += candidates_[i].weight;
    if (before + part >= mass) {
      high = middle;
    } else {
      before += part;
      low = middle;
    }
  }
  return high;
}

// Makes the first `count` candidates of enough weight the distribution.
void TokenDistribution::KeepCandidates(int64_t count, float least_weight) {
  std::fill(weights_, weights_ + vocabulary_, 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    if (candidates_[i].weight >= least_weight) weights_[candidates_[i].id] = candidates_[i].weight;
  }
  total_ = SumBlocks(nullptr, [&](int64_t begin, int64_t size) {
    return HWY_DYNAMIC_DISPATCH(BlockSum)(weights_ + begin, size);
  });
}

float TokenDistribution::Probability(int32_t id) const {
  return id >= 0 && id < vocabulary_ ? weights_[id] * scale_ : 0.0f;
}

void TokenDistribution::Store(float* q) {
  ForBlocks(nullptr, [&](int64_t, int64_t begin, int64_t count) {
    HWY_DYNAMIC_DISPATCH(BlockScale)(weights_ + begin, count, scale_, q + begin);
  });
  std::fill(q + vocabulary_, q + tables_.padded_vocabulary, 0.0f);
}

// The first id, in order, at which the running sum passes uniform * total; never one of weight 0.
int32_t TokenDistribution::DrawFrom(const float* weights, double total, double uniform) const {
  const double target = uniform * total;
  double before = 0;
  int32_t last = 0;
  for (int64_t block = 0; block < blocks_; ++block) {
    if (!(block_sums_[block] > 0)) continue;
    const int64_t begin = block * kVocabularyBlock,
                  end = std::min(vocabulary_, begin + kVocabularyBlock);
    const bool here = before + block_sums_[block] > target;
    // Rounding may leave the target beyond the last block's sum: the last possible id then.
    if (here || block == blocks_ - 1 || !(before + block_sums_[block] < total)) {
      double sum = before;
      for (int64_t id = begin; id < end; ++id) {
        if (!(weights[id] > 0)) continue;
        sum += weights[id];
        last = static_cast<int32_t>(id);
        if (sum > target) return last;
      }
      if (here) return last;
    }
    before += block_sums_[block];
  }
  return last;
}

int32_t TokenDistribution::Draw(double uniform) { return DrawFrom(weights_, total_, uniform); }

int32_t TokenDistribution::DrawResidual(double uniform, const float* q) {
  const double total = SumBlocks(nullptr, [&](int64_t begin, int64_t count) {
    return HWY_DYNAMIC_DISPATCH(BlockResidual)(weights_ + begin, count, scale_, q + begin,
                                               processed_ + begin);
  });
  if (total > 0) return DrawFrom(processed_, total, uniform);
  total_ = SumBlocks(nullptr, [&](int64_t begin, int64_t count) {
    return HWY_DYNAMIC_DISPATCH(BlockSum)(weights_ + begin, count);
  });
  return Draw(uniform);
}

float TokenDistribution::LogProbability(const float* logits, int32_t id, int count,
                                        int32_t* alternative_ids, float* alternative_logprobs) {
  const float maximum = std::min(Maximum(logits), std::numeric_limits<float>::max());
  const bool possible = maximum > kImpossible;
  double log_total = 0;
  if (possible) {
    log_total = std::log(SumBlocks(pool_, [&](int64_t begin, int64_t size) {
      return HWY_DYNAMIC_DISPATCH(BlockWeights)(logits + begin, size, maximum, 1.0f,
                                                weights_ + begin);
    }));
  }
  const auto normalise = [&](float logit) {
    if (!possible || !(logit > kImpossible)) return kImpossible;
    const double bounded = std::min(logit, std::numeric_limits<float>::max());
    return static_cast<float>((bounded - maximum) - log_total);
  };
  if (count > 0) {
    const int64_t found = CollectMostLikely(logits, std::min<int64_t>(count, vocabulary_));
    std::sort(candidates_, candidates_ + found, MoreLikely);
    for (int64_t i = 0; i < count; ++i) {
      alternative_ids[i] = i < found ? candidates_[i].id : -1;
      alternative_logprobs[i] = i < found ? normalise(candidates_[i].logit) : kImpossible;
    }
  }
  return id >= 0 && id < vocabulary_ ? normalise(logits[id]) : kImpossible;
}

namespace {

// Log-probability and alternatives of the token that is entry `place` of arrays [..,
// kMaxAlternatives].
float LogProbability(const float* logits, int32_t token, int alternatives, int64_t place,
                     int32_t* ids, float* logprobs, TokenDistribution& distribution) {
  if (alternatives <= 0) return distribution.LogProbability(logits, token, 0, nullptr, nullptr);
  const int64_t at = place * kMaxAlternatives;
  return distribution.LogProbability(logits, token, std::min(alternatives, kMaxAlternatives),
                                     ids + at, logprobs + at);
}

}  // namespace

// ---- drafts -------------------------------------------------------------------------------------

namespace {

// Calls task(item, distribution) for each of `count` items: threads take items, or share each
// item's vocabulary where there are too few items to go round.
template <typename Task>
void ForItems(ThreadPool& pool, int64_t count, const SamplingTables& tables,
              SamplingScratch& scratch, const Task& task) {
  if (count < pool.threads() && tables.vocabulary >= kSharedVocabulary) {
    TokenDistribution distribution(scratch.memory.as<float>(), &pool, tables);
    for (int64_t item = 0; item < count; ++item) task(item, distribution);
    return;
  }
  pool.Split(count, 1, [&](int64_t begin, int64_t end, int thread) {
    TokenDistribution distribution(scratch.memory.as<float>() + thread * scratch.floats_per_thread,
                                   nullptr, tables);
    for (int64_t item = begin; item < end; ++item) task(item, distribution);
  });
}

void SampleDraft(const DraftSampling& request, const SamplingTables& tables, const RowsView& logits,
                 int64_t s, TokenDistribution& distribution) {
  if (request.logit_row[s] < 0) return;
  const SamplingState& state = tables.states[request.slot[s]];
  const int32_t place = request.token_row[s];
  const RowContext row{logits.row(request.logit_row[s]), &state, request.position[s],
                       request.tokens + place - request.step, request.step};
  int32_t token = 0;
  if (state.temperature > 0) {
    distribution.Compute(row);
    distribution.Store(request.q + (s * kMaxWindowRows + request.step) * tables.padded_vocabulary);
    token = distribution.Draw(UniformDraw(state.seed, row.position, DrawPurpose::kDraft));
  } else {
    token = distribution.Greedy(row);
  }
  request.tokens[place] = token;
  if (request.next_tokens != nullptr && request.next_row[s] >= 0)
    request.next_tokens[request.next_row[s]] = token;
}

// ---- acceptance ---------------------------------------------------------------------------------

struct Decision {
  int accepted = 0;
  int32_t token = 0;  // the one after the accepted drafts
};

Decision DecideGreedily(const int32_t* drafts, int length, RowContext row, int64_t stride,
                        TokenDistribution& p) {
  for (int i = 0;; ++i) {
    const int32_t best = p.Greedy(row);
    if (i == length || drafts[i] != best) return {i, best};
    row.logits += stride;
    ++row.position;
    ++row.window_count;
  }
}

// `q`: distributions of the drafts, rows of V. nullptr: they were certain, and are kept as long as
// plain decoding draws the same token: then the answer is the same with drafts or without.
Decision DecideByChance(const int32_t* drafts, int length, RowContext row, int64_t stride,
                        const float* q, int64_t q_stride, TokenDistribution& p) {
  const uint64_t seed = row.state->seed;
  for (int i = 0;; ++i) {
    p.Compute(row);
    const double uniform = UniformDraw(seed, row.position, DrawPurpose::kToken);
    if (i == length) return {i, p.Draw(uniform)};
    const int32_t draft = drafts[i];
    if (q == nullptr) {
      const int32_t token = p.Draw(uniform);
      if (token != draft) return {i, token};
    } else {
      const float* proposed = q + i * q_stride;
      const double proposal = draft >= 0 && draft < q_stride ? proposed[draft] : 1;
      if (!(UniformDraw(seed, row.position, DrawPurpose::kAccept) * proposal <
            p.Probability(draft))) {
        return {i, p.DrawResidual(uniform, proposed)};
      }
    }
    row.logits += stride;
    ++row.position;
    ++row.window_count;
  }
}

void CountKept(const SamplingState& state, const SamplingTables& tables, const int32_t* kept,
               int count) {
  if (state.counts_row < 0) return;
  int32_t* counts = tables.counts + int64_t{state.counts_row} * tables.padded_vocabulary;
  for (int i = 0; i < count; ++i) {
    if (kept[i] >= 0 && kept[i] < tables.vocabulary) {
      counts[kept[i]] = static_cast<int32_t>(static_cast<uint32_t>(counts[kept[i]]) + 1);
    }
  }
}

void AcceptSequence(const Acceptance& request, const SamplingTables& tables, const RowsView& logits,
                    const AcceptanceResult& result, int64_t s, TokenDistribution& distribution) {
  const SamplingState& state = tables.states[request.slot[s]];
  const int length = request.draft_length[s];
  const int32_t* drafts = request.tokens + request.token_row[s] + 1;
  const RowContext first{logits.row(request.logit_begin[s]), &state, request.position[s], drafts,
                         0};
  const int64_t V = tables.padded_vocabulary;
  const float* q = request.proposal[s] != 0 ? request.q + s * kMaxWindowRows * V : nullptr;
  const Decision decision =
      state.temperature > 0
          ? DecideByChance(drafts, length, first, logits.stride, q, V, distribution)
          : DecideGreedily(drafts, length, first, logits.stride, distribution);

  const int64_t out = s * (kMaxWindowRows + 1);
  int32_t* tokens = result.tokens + out;
  int kept = std::min(decision.accepted + 1, static_cast<int>(request.limit[s]));
  int32_t stopped = 0;
  for (int i = 0; i < kept && stopped == 0; ++i) {
    tokens[i] = i < decision.accepted ? drafts[i] : decision.token;
    if (!IsStopId(state, tokens[i])) continue;
    stopped = 1;
    kept = i + 1;
  }
  result.accepted[s] = decision.accepted;
  result.kept[s] = kept;
  result.stopped[s] = stopped;
  CountKept(state, tables, tokens, kept);
  if (request.alternatives < 0) return;
  for (int i = 0; i < kept; ++i) {
    result.logprobs[out + i] =
        LogProbability(logits.row(request.logit_begin[s] + i), tokens[i], request.alternatives,
                       out + i, result.alternative_ids, result.alternative_logprobs, distribution);
  }
}

}  // namespace

SamplingScratch CreateSamplingScratch(int threads, int64_t padded_vocabulary) {
  SamplingScratch scratch;
  scratch.floats_per_thread = TokenDistribution::ScratchFloats(padded_vocabulary);
  const size_t bytes = static_cast<size_t>(threads) * scratch.floats_per_thread * sizeof(float);
  void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (memory == nullptr) std::abort();
  scratch.memory = Buffer(memory, bytes, [](void* data, size_t) { std::free(data); });
  return scratch;
}

void SampleDraftTokens(ThreadPool& pool, const DraftSampling& request, const SamplingTables& tables,
                       const RowsView& logits, SamplingScratch& scratch) {
  ForItems(pool, request.sequences, tables, scratch,
           [&](int64_t s, TokenDistribution& distribution) {
             SampleDraft(request, tables, logits, s, distribution);
           });
}

void AcceptDrafts(ThreadPool& pool, const Acceptance& request, const SamplingTables& tables,
                  const RowsView& logits, const AcceptanceResult& result,
                  SamplingScratch& scratch) {
  ForItems(pool, request.sequences, tables, scratch,
           [&](int64_t s, TokenDistribution& distribution) {
             AcceptSequence(request, tables, logits, result, s, distribution);
           });
}

void ScoreTokens(ThreadPool& pool, const TokenScoring& request, const SamplingTables& tables,
                 const RowsView& logits, SamplingScratch& scratch) {
  ForItems(pool, request.count, tables, scratch, [&](int64_t i, TokenDistribution& distribution) {
    request.logprobs[i] =
        LogProbability(logits.row(request.logit_row[i]), request.token[i], request.alternatives, i,
                       request.alternative_ids, request.alternative_logprobs, distribution);
  });
}

}  // namespace mambad::kernels

#endif  // HWY_ONCE
