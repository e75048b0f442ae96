// Opening: options and the files that they name -> what an engine is made of. First all that can be
// refused, in the order of what it costs to find out (options, the heads of files, device, memory,
// tokenizer); then the weights are read. On the thread that opens, before there is any other.

#ifndef MAMBAD_ENGINE_OPENING_OPENING_H_
#define MAMBAD_ENGINE_OPENING_OPENING_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine_facts.h"
#include "engine/engine_stats.h"
#include "engine/model/model.h"
#include "engine/options.h"
#include "engine/sampler.h"
#include "engine/speculation/speculative_decoder.h"
#include "engine/state/slot_table.h"
#include "engine/state/state_pool.h"
#include "kernels/backend.h"

namespace mambad {

// What an engine is made of; each stands above those that use it, and goes after them.
struct EngineParts {
  EngineFacts facts;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<Model> target, draft;                  // draft: null without a draft model
  std::unique_ptr<StatePool> target_state, draft_state;  // likewise
  std::unique_ptr<SlotTable> slots;
  std::unique_ptr<Sampler> sampler;
  std::unique_ptr<SpeculativeDecoder> decoder;
};

// `backend`: what to run on; null: the one that the options name, made with `lost`. Errors: what is
// wrong with which file or option, or that the device has or gives too little memory.
absl::StatusOr<EngineParts> OpenParts(const EngineOptions& options,
                                      std::unique_ptr<kernels::Backend> backend,
                                      DeviceLostHandler lost);

// What OpenParts refuses before it reads weights; the warnings that it would have.
absl::StatusOr<std::vector<std::string>> CheckParts(const EngineOptions& options);

}  // namespace mambad

#endif  // MAMBAD_ENGINE_OPENING_OPENING_H_
