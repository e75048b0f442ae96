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
#include "engine/engine_parts.h"
#include "engine/engine_stats.h"
#include "engine/options.h"
#include "kernels/backend.h"

namespace mambad {

// `backend`: what to run on; null: the one that the options name, made with `lost`. Errors: what is
// wrong with which file or option, or that the device has or gives too little memory.
absl::StatusOr<EngineParts> OpenParts(const EngineOptions& options,
                                      std::unique_ptr<kernels::Backend> backend,
                                      DeviceLostHandler lost);

// What OpenParts refuses before it reads weights; the warnings that it would have.
absl::StatusOr<std::vector<std::string>> CheckParts(const EngineOptions& options);

}  // namespace mambad

#endif  // MAMBAD_ENGINE_OPENING_OPENING_H_
