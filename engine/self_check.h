// The check before serving: is speculative text the same as plain text on this machine?

#ifndef MAMBAD_ENGINE_SELF_CHECK_H_
#define MAMBAD_ENGINE_SELF_CHECK_H_

#include "engine/engine_core.h"

namespace mambad {

// Decodes a few fixed prompts greedily, plain and with every drafter there is, and compares the
// tokens. False: they differ. Bounded by tokens and by about half a second. The core must be idle,
// and is so again afterwards.
bool SelfCheck(EngineCore& core);

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SELF_CHECK_H_
