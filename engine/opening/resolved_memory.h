// Options against the memory that a device has: how many sequences run together and how large the
// cache is, where nobody said, and what is planned of it all. Nothing is taken.

#ifndef MAMBAD_ENGINE_OPENING_RESOLVED_MEMORY_H_
#define MAMBAD_ENGINE_OPENING_RESOLVED_MEMORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/memory_plan.h"
#include "engine/options.h"
#include "kernels/backend.h"

namespace mambad {

// What is to be served.
struct OpenedModels {
  const checkpoint::Checkpoint* target = nullptr;
  const checkpoint::Checkpoint* draft = nullptr;  // null: none
  int64_t proposed_tokens = 0;                    // the draft's; 0: all
};

// Resolves what ResolveOptions does, and then sequences, the cache's room and with it the context.
//
//   chosen on a device of its own memory   up to 64 sequences, and of the cache what they could use
//                                          at most: as much as memory_fraction of the free memory
//                                          holds beside the weights
//   chosen elsewhere                       16 sequences, and as UsualCacheTokens, cut to the memory
//
// INVALID_ARGUMENT as ResolveOptions and CheckPageTable; RESOURCE_EXHAUSTED as CheckFits. Adds to
// `warnings` what is less than was asked for or would be usual.
absl::StatusOr<MemoryPlan> ResolveMemory(const OpenedModels& models,
                                         const kernels::Backend& backend, EngineOptions* options,
                                         std::vector<std::string>* warnings);

}  // namespace mambad

#endif  // MAMBAD_ENGINE_OPENING_RESOLVED_MEMORY_H_
