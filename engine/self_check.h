// The check before serving: is speculative text the same as plain text on this machine?

#ifndef MAMBAD_ENGINE_SELF_CHECK_H_
#define MAMBAD_ENGINE_SELF_CHECK_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine_core.h"
#include "engine/steady_time.h"

namespace mambad {

// Decodes a few fixed prompts, greedily and sampled, plain and with every drafter there is, and
// compares tokens and log-probabilities bit by bit. OK: they are the same, all numbers are finite,
// and every drafter did draft. INTERNAL: what was not so, or which probe was refused. Bounded by
// tokens and by about half a second. The core must be idle, and is so again afterwards; its
// observer sees none of it, and neither counters nor draft lengths remember it. `clock`: steady
// time. Contexts too short for drafts are not checked.
absl::Status SelfCheck(EngineCore& core, absl::FunctionRef<absl::Time()> clock = SteadyNow);

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SELF_CHECK_H_
