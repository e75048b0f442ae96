// How much of a device's memory an engine will take, worked out from the models' configurations and
// the options before anything is taken.

#ifndef MAMBAD_ENGINE_MEMORY_PLAN_H_
#define MAMBAD_ENGINE_MEMORY_PLAN_H_

#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "engine/options.h"

namespace mambad::checkpoint {
class Checkpoint;
}
namespace mambad::kernels {
class Backend;
}

namespace mambad {

struct ModelLimits;

// Rows of a step whose logits may be wanted: of every sequence's draft, and some of prompts.
inline int MaxLogitRows(const EngineOptions& options) {
  const int of_drafts = options.max_sequences * (options.max_draft_length + 1) + 32;
  return options.max_step_rows < of_drafts ? options.max_step_rows : of_drafts;
}

// Uncommitted rows that a window of the target's has at most: the drafts behind a committed row.
inline int TargetWindowRows(const EngineOptions& options) {
  return options.speculation ? options.max_draft_length : 0;
}

// The same of the draft model's, which commits what it reads before its first draft and never reads
// its last one.
inline int DraftWindowRows(const EngineOptions& options) {
  return options.speculation ? options.max_draft_length - 1 : 0;
}

// What passes of the target may take, and those of its draft model.
ModelLimits TargetLimits(const EngineOptions& options);
ModelLimits DraftLimits(const EngineOptions& options);

// Bytes, of target and draft model together.
struct MemoryPlan {
  int64_t weights = 0;
  int64_t states = 0;           // recurrent state: a slot for each sequence
  int64_t keys_and_values = 0;  // pages
  int64_t tables = 0;           // of pages and steps; what sampling keeps for each sequence
  int64_t workspace = 0;        // activations and logits of one step, scratch of its operations
  int64_t free = -1;            // what the device had before; -1: it does not say

  int64_t cache_token = 0;       // of keys_and_values, one token of the cache
  bool float32_weights = false;  // the target's: half of them would do as bfloat16

  int64_t total() const { return weights + states + keys_and_values + tables + workspace; }
};

// `options`: resolved, no zeros that mean "choose"; `draft`: nullptr without one, else with the
// number of tokens that it proposes (0: all). No less than is taken, and little more.
MemoryPlan PlanMemory(const checkpoint::Checkpoint& target, const checkpoint::Checkpoint* draft,
                      int64_t proposed_tokens, const EngineOptions& options,
                      const kernels::Backend& backend);

// Tokens of the cache, at most `wanted`, with which this share of the free memory is taken at most:
// of a plan with any cache. No fewer than 2,048 of them, whether they fit or not.
int64_t FittingCacheTokens(const MemoryPlan& plan, int64_t wanted, double fraction);

// RESOURCE_EXHAUSTED in one line when more is planned than is free: what for, how much there is,
// and the setting that takes most.
absl::Status CheckFits(const MemoryPlan& plan, const EngineOptions& options);

// The same when the device gave less than it had said, of a plan that fitted.
absl::Status OutOfMemory(const MemoryPlan& plan, const EngineOptions& options);

// "9.5 MB" (decimal units, three digits).
inline std::string BytesForPeople(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  for (; value >= 999.5 && unit < 5; ++unit) value /= 1000;
  const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  char text[32];
  std::snprintf(text, sizeof(text), "%.*f %s", decimals, value, kUnits[unit]);
  return text;
}

}  // namespace mambad

#endif  // MAMBAD_ENGINE_MEMORY_PLAN_H_
