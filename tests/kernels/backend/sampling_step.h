// One step of sampling on a backend: arrays to fill and read on the host.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_SAMPLING_STEP_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_SAMPLING_STEP_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/reference.h"
#include "tests/kernels/backend/step_rows.h"

namespace mambad::kernels {

inline constexpr int kTokens = kMaxWindowRows + 1;

// `sequences` sequences, slot s each; window row i of sequence s has logits row and token row
// s * window + i. Every call writes all arrays, and reads back those that it gives.
struct SamplingStep {
  SamplingStep(Backend& backend, int sequences, int vocabulary, int padded = 0,
               int window = kTokens)
      : backend(backend),
        count(sequences),
        window(window),
        vocabulary(vocabulary),
        V(std::max(vocabulary, padded)),
        target(backend.CreateWorkspace(SmallWorkspace(sequences * window, 16, V))),
        draft(backend.CreateWorkspace(SmallWorkspace(sequences, 16, V))) {
    states.resize(sequences);
    for (int s = 0; s < sequences; ++s) states[s].seed = 1000 + s;
    logits.assign(size_t(sequences) * window * V, 50.0f);  // padding must not be sampled
    counts.assign(size_t(sequences) * V, 0);
    bias.assign(size_t(sequences) * V, 0.0f);
    for (auto* array : {&drafts, &accepted, &kept, &stopped}) array->assign(sequences, 0);
    tokens.assign(sequences * window, 0);
    out.assign(sequences * kTokens, -1);
    for (int s = 0; s < sequences; ++s) {
      slot.push_back(s);
      begin.push_back(s * window);
      row.push_back(s * window);
      limit.push_back(kTokens);
      position.push_back(10 + s);
    }
    logprobs.assign(sequences * kTokens, kNaN);
    alternative_ids.assign(sequences * kTokens * kMaxAlternatives, -5);
    alternative_logprobs.assign(sequences * kTokens * kMaxAlternatives, kNaN);
  }

  float* Logits(int s, int window_row) {
    return logits.data() + (size_t(s) * window + window_row) * V;
  }
  void SetLogits(int s, int window_row, const Row& values) {
    std::copy(values.begin(), values.end(), Logits(s, window_row));
  }

  // `alternatives`: every slot's.
  void Accept(int alternatives = -1) {
    for (SamplingState& state : states) state.alternatives = alternatives;
    AcceptAsAsked(/*with_logprobs=*/alternatives >= 0);
  }
  void AcceptAsAsked(bool with_logprobs) {
    const Arrays arrays(*this);
    const DeviceArray<int32_t> device_begin(backend, begin), lengths(backend, drafts),
        rows(backend, row), positions(backend, position), limits(backend, limit),
        all_accepted(backend, accepted), all_kept(backend, kept), all_stopped(backend, stopped),
        all_out(backend, out), ids(backend, alternative_ids);
    const DeviceArray<float> device_logprobs(backend, logprobs),
        alternatives_of(backend, alternative_logprobs);
    Acceptance request;
    request.sequences = count;
    request.slot = arrays.slot.data();
    request.logit_begin = device_begin.data();
    request.draft_length = lengths.data();
    request.token_row = rows.data();
    request.tokens = arrays.tokens.data();
    request.position = positions.data();
    request.limit = limits.data();
    request.logprobs = with_logprobs;
    AcceptanceResult result;
    result.accepted = all_accepted.data();
    result.kept = all_kept.data();
    result.tokens = all_out.data();
    result.stopped = all_stopped.data();
    result.logprobs = device_logprobs.data();
    result.alternative_ids = ids.data();
    result.alternative_logprobs = alternatives_of.data();
    WriteRows(backend, target->logits, logits);
    RunRound(backend, [&] { backend.Accept(request, arrays.tables(*this), *target, result); });
    accepted = all_accepted.Read();
    kept = all_kept.Read();
    stopped = all_stopped.Read();
    out = all_out.Read();
    logprobs = device_logprobs.Read();
    alternative_ids = ids.Read();
    alternative_logprobs = alternatives_of.Read();
    counts = arrays.counts.Read();
  }

  // Draws draft `step` of all sequences from `draft_logits` [sequences][V], at the position where
  // it belongs.
  void Draft(int step, const Row& draft_logits) {
    std::vector<int32_t> logit_row(count), none(count, -1);
    for (int s = 0; s < count; ++s) logit_row[s] = s;
    Draft(step, draft_logits, logit_row, none, nullptr);
  }
  // From the given rows (-1: none), and to the given places of `next_tokens` (-1: nowhere) as well.
  void Draft(int step, const Row& draft_logits, const std::vector<int32_t>& logit_row,
             const std::vector<int32_t>& next_row, std::vector<int32_t>* next_tokens) {
    const Arrays arrays(*this);
    std::vector<int32_t> at, place;
    for (int s = 0; s < count; ++s) {
      at.push_back(position[s] + step);
      place.push_back(row[s] + 1 + step);
    }
    const DeviceArray<int32_t> rows(backend, logit_row), positions(backend, at),
        places(backend, place), next_rows(backend, next_row),
        next(backend, next_tokens != nullptr ? *next_tokens : std::vector<int32_t>());
    DraftSampling request;
    request.sequences = count;
    request.slot = arrays.slot.data();
    request.logit_row = rows.data();
    request.position = positions.data();
    request.step = step;
    request.tokens = arrays.tokens.data();
    request.token_row = places.data();
    request.next_tokens = next_tokens != nullptr ? next.data() : nullptr;
    request.next_row = next_rows.data();
    WriteRows(backend, draft->logits, draft_logits);
    RunRound(backend, [&] { backend.SampleDrafts(request, arrays.tables(*this), *draft); });
    tokens = arrays.tokens.Read();
    if (next_tokens != nullptr) *next_tokens = next.Read();
  }

  // Log-probabilities of `ids` under rows of `logits`; alternatives 0: nothing is written of them.
  void Score(const std::vector<int32_t>& rows, const std::vector<int32_t>& ids, int alternatives) {
    const Arrays arrays(*this);
    const DeviceArray<int32_t> device_rows(backend, rows), device_ids(backend, ids),
        others(backend, alternative_ids);
    const DeviceArray<float> device_logprobs(backend, logprobs),
        alternatives_of(backend, alternative_logprobs);
    TokenScoring request;
    request.count = static_cast<int>(rows.size());
    request.logit_row = device_rows.data();
    request.token = device_ids.data();
    request.alternatives = alternatives;
    request.logprobs = device_logprobs.data();
    if (alternatives > 0) {
      request.alternative_ids = others.data();
      request.alternative_logprobs = alternatives_of.data();
    }
    WriteRows(backend, target->logits, logits);
    RunRound(backend, [&] { backend.Score(request, arrays.tables(*this), *target); });
    logprobs = device_logprobs.Read();
    alternative_ids = others.Read();
    alternative_logprobs = alternatives_of.Read();
  }

  // What every call needs.
  struct Arrays {
    explicit Arrays(const SamplingStep& step)
        : states(step.backend, step.states),
          counts(step.backend, step.counts),
          slot(step.backend, step.slot),
          tokens(step.backend, step.tokens),
          bias(step.backend, step.bias) {}
    SamplingTables tables(const SamplingStep& step) const {
      return {states.data(), counts.data(), bias.data(), step.vocabulary, step.V};
    }
    DeviceArray<SamplingState> states;
    DeviceArray<int32_t> counts, slot, tokens;
    DeviceArray<float> bias;
  };

  Backend& backend;
  int count, window, vocabulary, V;
  std::unique_ptr<Workspace> target, draft;
  std::vector<SamplingState> states;
  Row logits, bias, logprobs, alternative_logprobs;
  std::vector<int32_t> counts, slot, begin, drafts, row, limit, accepted, kept, stopped, position,
      tokens, out, alternative_ids;
};

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_SAMPLING_STEP_H_
