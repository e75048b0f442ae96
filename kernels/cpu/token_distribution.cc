#include "kernels/cpu/token_distribution.h"

// clang-format off: the order matters.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/token_distribution.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/token_race-inl.h"
#include "kernels/cpu/vocabulary_passes-inl.h"
// clang-format on

#if HWY_ONCE

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/philox.h"

namespace mambad::kernels {
namespace {

HWY_EXPORT(BlockMaximum);
HWY_EXPORT(FindAbove);
HWY_EXPORT(BlockSum);
HWY_EXPORT(BlockWeights);
HWY_EXPORT(BlockPenalise);
HWY_EXPORT(BlockRace);

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

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

// What min_p leaves; the likeliest id weighs 1.
float LeastWeight(const SamplingState& state) {
  return state.min_p > 0 ? std::min(state.min_p, 1.0f) : 0.0f;
}

bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

}  // namespace

int64_t TokenDistribution::ScratchFloats(int64_t padded_vocabulary) {
  const int64_t row = (padded_vocabulary + 15) / 16 * 16;
  const int64_t blocks = (padded_vocabulary + kVocabularyBlock - 1) / kVocabularyBlock;
  constexpr int64_t kFloats = (sizeof(double) + sizeof(RaceLeader)) / sizeof(float);
  return 5 * row + (kFloats * blocks + 15) / 16 * 16;
}

TokenDistribution::TokenDistribution(float* memory, ThreadPool* pool, const SamplingTables& tables)
    : tables_(tables),
      pool_(pool),
      vocabulary_(tables.vocabulary),
      blocks_((vocabulary_ + kVocabularyBlock - 1) / kVocabularyBlock),
      processed_(memory),
      weights_(memory + (int64_t{tables.padded_vocabulary} + 15) / 16 * 16),
      candidates_(reinterpret_cast<Candidate*>(weights_ + (weights_ - processed_))),
      block_maxima_(reinterpret_cast<double*>(memory + 5 * (weights_ - processed_))),
      block_leaders_(reinterpret_cast<RaceLeader*>(block_maxima_ + blocks_)) {}

template <typename Pass>
void TokenDistribution::ForBlocks(ThreadPool* pool, const Pass& pass) const {
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
    block_maxima_[block] = HWY_DYNAMIC_DISPATCH(BlockMaximum)(x + begin, count);
  });
  return static_cast<float>(*std::max_element(block_maxima_, block_maxima_ + blocks_));
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

// The lowest id whose number is `maximum`, which Maximum(x) has just given.
int32_t TokenDistribution::FirstOf(const float* x, float maximum) const {
  const int64_t block =
      std::find(block_maxima_, block_maxima_ + blocks_, double{maximum}) - block_maxima_;
  return static_cast<int32_t>(
      HWY_DYNAMIC_DISPATCH(FindAbove)(x, block * kVocabularyBlock, vocabulary_, maximum, true));
}

// weights = softmax of x / temperature, not normalised; `maximum` is x's.
void TokenDistribution::Weigh(const float* x, float maximum, float temperature, float* weights) {
  const float bounded = std::min(maximum, std::numeric_limits<float>::max());
  ForBlocks(pool_, [&](int64_t, int64_t begin, int64_t count) {
    HWY_DYNAMIC_DISPATCH(BlockWeights)
    (x + begin, count, bounded, temperature, weights + begin);
  });
}

double TokenDistribution::Total(const float* weights) const {
  double total = 0;
  ForBlocks(nullptr, [&](int64_t, int64_t begin, int64_t count) {
    total += HWY_DYNAMIC_DISPATCH(BlockSum)(weights + begin, count);
  });
  return total;
}

void TokenDistribution::Compute(const RowContext& row) {
  const SamplingState& state = *row.state;
  candidate_count_ = 0;
  const float* x = Process(row);
  const bool top_k = state.temperature > 0 && state.top_k > 0 && state.top_k < vocabulary_;
  if (top_k) return ComputeMostLikely(row, x);
  const float maximum = Maximum(x);
  likeliest_ = maximum > kImpossible ? FirstOf(x, maximum) : Fallback(row);
  certain_ = !(state.temperature > 0) || !(maximum > kImpossible);
  if (certain_) return;
  Weigh(x, maximum, state.temperature, weights_);
  const bool top_p = state.top_p < 1;  // NaN: off
  const float min_p = LeastWeight(state);
  if (!top_p && min_p == 0) return;
  // Ids lighter than this weigh less than half of 1 - top_p together: the wanted ones are among
  // the others.
  double light = 0, total = 0;
  if (top_p) {
    total = Total(weights_);
    light = 0.5 * (1 - std::max(0.0, static_cast<double>(state.top_p))) * total / vocabulary_;
  }
  const int64_t heavy = CollectHeavy(x, std::max(static_cast<float>(light), min_p));
  KeepCandidates(top_p ? SelectMass(heavy, state.top_p * total) : heavy, min_p);
}

// Compute where top_k leaves some of the vocabulary.
void TokenDistribution::ComputeMostLikely(const RowContext& row, const float* x) {
  const SamplingState& state = *row.state;
  const int64_t count = CollectMostLikely(x, state.top_k);
  certain_ = count == 0;
  if (certain_) {
    likeliest_ = Fallback(row);
    return;
  }
  float* gathered = weights_;
  float maximum = kImpossible;
  for (int64_t i = 0; i < count; ++i) {
    gathered[i] = candidates_[i].logit;
    maximum = std::max(maximum, gathered[i]);
  }
  maximum =
      std::clamp(maximum, std::numeric_limits<float>::lowest(), std::numeric_limits<float>::max());
  HWY_DYNAMIC_DISPATCH(BlockWeights)(gathered, count, maximum, state.temperature, gathered);
  for (int64_t i = 0; i < count; ++i) candidates_[i].weight = gathered[i];
  const bool top_p = state.top_p < 1;
  const double total = top_p ? HWY_DYNAMIC_DISPATCH(BlockSum)(gathered, count) : 0;
  KeepCandidates(top_p ? SelectMass(count, state.top_p * total) : count, LeastWeight(state));
}

int32_t TokenDistribution::Pick(const RowContext& row) {
  Compute(row);
  if (certain_) return likeliest_;
  const RaceDraw draw = {row.state->seed, static_cast<uint32_t>(row.position), row.state->sample};
  return candidate_count_ > 0 ? RaceOfCandidates(draw) : RaceOfVocabulary(draw);
}

int32_t TokenDistribution::RaceOfCandidates(const RaceDraw& draw) const {
  RaceLeader leader;
  for (int64_t i = 0; i < candidate_count_; ++i) {
    const auto [logit, weight, id] = candidates_[i];
    leader.Meet({ArrivalTime(draw, id, weight), id});
  }
  return leader.id;
}

// Every block races against the likeliest id, which dismisses nearly all of the others early; then
// the blocks' first ones among themselves.
int32_t TokenDistribution::RaceOfVocabulary(const RaceDraw& draw) {
  RaceLeader leader;
  leader.Meet({ArrivalTime(draw, likeliest_, weights_[likeliest_]), likeliest_});
  ForBlocks(pool_, [&](int64_t block, int64_t begin, int64_t count) {
    block_leaders_[block] = leader;
    HWY_DYNAMIC_DISPATCH(BlockRace)
    (weights_ + begin, begin, count, draw, block_leaders_ + block);
  });
  for (int64_t block = 0; block < blocks_; ++block) leader.Meet(block_leaders_[block]);
  return leader.id;
}

void TokenDistribution::Probabilities(float* p) const {
  if (certain_ || candidate_count_ > 0) {
    std::fill(p, p + vocabulary_, 0.0f);
    if (certain_) p[likeliest_] = 1;
    for (int64_t i = 0; i < candidate_count_; ++i) p[candidates_[i].id] = candidates_[i].weight;
  } else {
    std::copy(weights_, weights_ + vocabulary_, p);
  }
  double total = 0;
  for (int64_t id = 0; id < vocabulary_; ++id) total += p[id];
  for (int64_t id = 0; id < vocabulary_; ++id) p[id] = static_cast<float>(p[id] / total);
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

// Makes those of the first `count` candidates the distribution that weigh enough, and anything.
void TokenDistribution::KeepCandidates(int64_t count, float least_weight) {
  candidate_count_ =
      std::remove_if(candidates_, candidates_ + count,
                     [least_weight](const Candidate& candidate) {
                       return !(candidate.weight > 0) || candidate.weight < least_weight;
                     }) -
      candidates_;
}

float TokenDistribution::LogProbability(const float* logits, int32_t id, int count,
                                        int32_t* alternative_ids, float* alternative_logprobs) {
  const float maximum = std::min(Maximum(logits), std::numeric_limits<float>::max());
  const bool possible = maximum > kImpossible;
  double log_total = 0;
  if (possible) {
    Weigh(logits, maximum, 1.0f, weights_);
    log_total = std::log(Total(weights_));
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

}  // namespace mambad::kernels

#endif  // HWY_ONCE
