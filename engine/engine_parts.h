// What opening hands to the core, which owns it from then on: all that an engine is made of. Plain
// data; the parts are the engine thread's, the facts anybody's.

#ifndef MAMBAD_ENGINE_ENGINE_PARTS_H_
#define MAMBAD_ENGINE_ENGINE_PARTS_H_

#include <memory>

#include "engine/engine_facts.h"
#include "engine/model/model.h"
#include "engine/sampler.h"
#include "engine/sessions/saved_state.h"
#include "engine/sessions/session_files.h"
#include "engine/sessions/session_table.h"
#include "engine/speculation/speculative_decoder.h"
#include "engine/state/slot_table.h"
#include "engine/state/state_pool.h"
#include "kernels/backend.h"

namespace mambad {

// Each stands above those that use it, and goes after them.
struct EngineParts {
  EngineFacts facts;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<Model> target, draft;                  // draft: null without a draft model
  std::unique_ptr<StatePool> target_state, draft_state;  // likewise
  std::unique_ptr<SlotTable> slots;
  std::unique_ptr<Sampler> sampler;
  std::unique_ptr<SpeculativeDecoder> decoder;
  std::shared_ptr<HostMemory> session_memory;
  std::shared_ptr<SessionTable> sessions;
  std::unique_ptr<SessionFiles> session_files;  // null: sessions end with the process
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_ENGINE_PARTS_H_
