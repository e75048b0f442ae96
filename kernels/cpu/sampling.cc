#include "kernels/cpu/sampling.h"

#include <algorithm>
#include <cstdlib>

#include "kernels/cpu/token_distribution.h"

namespace mambad::kernels {
namespace {

// One sequence's vocabulary is shared by threads only where a pass outlasts waking them.
constexpr int64_t kSharedVocabulary = 32768;

// Log-probability and alternatives of the token that is entry `place` of arrays [..,
// kMaxAlternatives].
float LogProbability(const float* logits, int32_t token, int alternatives, int64_t place,
                     int32_t* ids, float* logprobs, TokenDistribution& distribution) {
  if (alternatives <= 0) return distribution.LogProbability(logits, token, 0, nullptr, nullptr);
  const int64_t at = place * kMaxAlternatives;
  return distribution.LogProbability(logits, token, std::min(alternatives, kMaxAlternatives),
                                     ids + at, logprobs + at);
}

// Entries up to the last one that is not -1.
int UsedEntries(const int32_t* entries, int count) {
  while (count > 0 && entries[count - 1] < 0) --count;
  return count;
}

// ---- drafts -------------------------------------------------------------------------------------

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
  const int32_t token = distribution.Pick(row);
  request.tokens[place] = token;
  if (request.next_tokens != nullptr && request.next_row[s] >= 0)
    request.next_tokens[request.next_row[s]] = token;
}

// ---- acceptance ---------------------------------------------------------------------------------

struct Decision {
  int accepted = 0;
  int32_t token = 0;  // the one after the accepted drafts
};

// Rows decide one after the other, each as if it were decoded alone, for as long as the drafts say
// the same.
Decision Decide(const int32_t* drafts, int length, RowContext row, int64_t stride,
                TokenDistribution& distribution) {
  for (int i = 0;; ++i) {
    const int32_t token = distribution.Pick(row);
    if (i == length || drafts[i] != token) return {i, token};
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
  if (request.slot[s] < 0) return;
  const SamplingState& state = tables.states[request.slot[s]];
  const int length = request.draft_length[s];
  const int32_t* drafts = request.tokens + request.token_row[s] + 1;
  const RowContext first{logits.row(request.logit_begin[s]), &state, request.position[s], drafts,
                         0};
  const Decision decision = Decide(drafts, length, first, logits.stride, distribution);

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
  if (!request.logprobs || state.alternatives < 0) return;
  for (int i = 0; i < kept; ++i) {
    result.logprobs[out + i] =
        LogProbability(logits.row(request.logit_begin[s] + i), tokens[i], state.alternatives,
                       out + i, result.alternative_ids, result.alternative_logprobs, distribution);
  }
}

}  // namespace

int64_t SamplingScratchBytes(int threads, int64_t padded_vocabulary) {
  return threads * TokenDistribution::ScratchFloats(padded_vocabulary) * int64_t{sizeof(float)};
}

SamplingScratch CreateSamplingScratch(int threads, int64_t padded_vocabulary) {
  SamplingScratch scratch;
  scratch.floats_per_thread = TokenDistribution::ScratchFloats(padded_vocabulary);
  const auto bytes = static_cast<size_t>(SamplingScratchBytes(threads, padded_vocabulary));
  void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (memory == nullptr) throw std::bad_alloc();
  scratch.memory = Buffer(memory, bytes, [](void* data, size_t) { std::free(data); });
  return scratch;
}

void SampleDraftTokens(ThreadPool& pool, const DraftSampling& request, const SamplingTables& tables,
                       const RowsView& logits, SamplingScratch& scratch) {
  ForItems(pool, UsedEntries(request.logit_row, request.sequences), tables, scratch,
           [&](int64_t s, TokenDistribution& distribution) {
             SampleDraft(request, tables, logits, s, distribution);
           });
}

void AcceptDrafts(ThreadPool& pool, const Acceptance& request, const SamplingTables& tables,
                  const RowsView& logits, const AcceptanceResult& result,
                  SamplingScratch& scratch) {
  ForItems(pool, UsedEntries(request.slot, request.sequences), tables, scratch,
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
