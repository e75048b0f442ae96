// Options against themselves and against the models' configurations: what cannot be is refused, the
// zeros that mean "choose" are chosen. Pure functions; the rest, which depends on the device and
// its memory, is opening.cc's.

#ifndef MAMBAD_ENGINE_OPENING_RESOLVED_OPTIONS_H_
#define MAMBAD_ENGINE_OPENING_RESOLVED_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/checkpoint/model_config.h"
#include "engine/options.h"

namespace mambad {

// What can be said of options without a model. INVALID_ARGUMENT "name: what was given, what is
// allowed", with names as in the configuration file.
absl::Status CheckRanges(const EngineOptions& options);

// Chooses rows, penalties' room and the context, of options that say how many sequences run; the
// cache's room and the types stay as they are.
// `draft`: null without a draft model. INVALID_ARGUMENT: the two models do not go together, or the
// context is longer than the model allows. Adds to `warnings` what was left of a claim.
absl::Status ResolveOptions(const checkpoint::ModelConfig& target,
                            const checkpoint::ModelConfig* draft, EngineOptions* options,
                            std::vector<std::string>* warnings);

// INVALID_ARGUMENT when so many sequences of such a context have larger page tables than there may
// be. Of options whose context is final.
absl::Status CheckPageTable(const EngineOptions& options, bool has_attention);

// Rows of a step where nobody said how many, for so many sequences; on a device of its own memory
// at most.
int UsualStepRows(int sequences, bool dedicated);

// Sequences that run together where nobody said how many; at most on a device of its own memory.
int UsualSequences(const EngineOptions& options, bool dedicated);

// Tokens of room in the cache where nobody named any: what so many sequences usually take, and one
// whole context at least.
int64_t UsualCacheTokens(const EngineOptions& options);
int64_t SharedCacheTokens(const EngineOptions& options);  // without the latter

}  // namespace mambad

#endif  // MAMBAD_ENGINE_OPENING_RESOLVED_OPTIONS_H_
