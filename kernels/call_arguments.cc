#include "kernels/call_arguments.h"

#include <type_traits>

namespace mambad::kernels {
namespace {

template <typename T>
int64_t Number(T value) {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<intptr_t>(value);
  } else {
    return static_cast<int64_t>(value);
  }
}

}  // namespace

// The bindings count the members: one that is new does not compile.
Arguments ArgumentsOf(const Batch& batch) {
  const auto& [sequences, rows, row_begin, slot, position, replay, fold, keep_from, keep_at, resume,
               tokens, pages, pages_per_sequence, logit_rows, logit_count, max_position,
               keeps_working] = batch;
  return {{"sequences", sequences},
          {"rows", rows},
          {"row_begin", Number(row_begin)},
          {"slot", Number(slot)},
          {"position", Number(position)},
          {"replay", Number(replay)},
          {"fold", Number(fold)},
          {"keep_from", Number(keep_from)},
          {"keep_at", Number(keep_at)},
          {"resume", Number(resume)},
          {"tokens", Number(tokens)},
          {"pages", Number(pages)},
          {"pages_per_sequence", pages_per_sequence},
          {"logit_rows", Number(logit_rows)},
          {"logit_count", logit_count},
          {"max_position", max_position},
          {"keeps_working", keeps_working}};
}

Arguments ArgumentsOf(const SamplingTables& tables) {
  const auto& [states, counts, bias, vocabulary, padded_vocabulary] = tables;
  return {{"states", Number(states)},
          {"counts", Number(counts)},
          {"bias", Number(bias)},
          {"vocabulary", vocabulary},
          {"padded_vocabulary", padded_vocabulary}};
}

Arguments ArgumentsOf(const DraftSampling& request) {
  const auto& [sequences, slot, logit_row, position, step, tokens, token_row, next_tokens,
               next_row] = request;
  return {{"sequences", sequences},
          {"slot", Number(slot)},
          {"logit_row", Number(logit_row)},
          {"position", Number(position)},
          {"step", step},
          {"tokens", Number(tokens)},
          {"token_row", Number(token_row)},
          {"next_tokens", Number(next_tokens)},
          {"next_row", Number(next_row)}};
}

Arguments ArgumentsOf(const Acceptance& request) {
  const auto& [sequences, slot, logit_begin, draft_length, token_row, tokens, position, limit,
               logprobs] = request;
  return {{"sequences", sequences},
          {"slot", Number(slot)},
          {"logit_begin", Number(logit_begin)},
          {"draft_length", Number(draft_length)},
          {"token_row", Number(token_row)},
          {"tokens", Number(tokens)},
          {"position", Number(position)},
          {"limit", Number(limit)},
          {"logprobs", logprobs}};
}

Arguments ArgumentsOf(const AcceptanceResult& result) {
  const auto& [accepted, kept, tokens, stopped, logprobs, alternative_ids, alternative_logprobs] =
      result;
  return {{"accepted", Number(accepted)},
          {"kept", Number(kept)},
          {"kept tokens", Number(tokens)},
          {"stopped", Number(stopped)},
          {"kept logprobs", Number(logprobs)},
          {"alternative_ids", Number(alternative_ids)},
          {"alternative_logprobs", Number(alternative_logprobs)}};
}

Arguments ArgumentsOf(const RecurrentState& state) {
  const auto& [data, slot_stride, layout] = state;
  return {{"state", Number(data)}, {"slot_stride", slot_stride}, {"slot floats", layout.floats}};
}

Arguments ArgumentsOf(const KeyValueState& state) {
  const auto& [keys, values, layout] = state;
  const auto& [type, key_bytes, value_bytes] = layout;
  return {{"keys", Number(keys)},
          {"values", Number(values)},
          {"type", Number(type)},
          {"key_bytes", key_bytes},
          {"value_bytes", value_bytes}};
}

Arguments PlaceOf(const char* name, const void* place) { return {{name, Number(place)}}; }

}  // namespace mambad::kernels
