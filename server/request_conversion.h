// Wire requests to engine requests: validation of everything that is known at this edge,
// tokenizing, chat templates. Pure functions of request, engine and limits; any thread, but they
// compute: not for the network's threads.

#ifndef MAMBAD_SERVER_REQUEST_CONVERSION_H_
#define MAMBAD_SERVER_REQUEST_CONVERSION_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "mambad/v1/generation.pb.h"
#include "server/server_options.h"

namespace mambad::server {

// Limits after the engine's own facts are known: what GetModelInfo tells.
v1::Limits EffectiveLimits(const Engine& engine, const RequestLimits& limits);

// At most 128 printable ASCII characters: what may stand in a log.
bool IsValidRequestId(absl::string_view id);

struct PreparedGenerate {
  Request request;
  int stream_interval = 1;
};

// INVALID_ARGUMENT or UNIMPLEMENTED with google.rpc.BadRequest; FAILED_PRECONDITION when the model
// lacks a tokenizer or a chat template.
absl::StatusOr<PreparedGenerate> PrepareGenerate(const v1::GenerateRequest& wire,
                                                 const Engine& engine, const RequestLimits& limits,
                                                 absl::Time deadline);

// A request with score_from set. Errors as above.
absl::StatusOr<Request> PrepareScore(const v1::ScoreRequest& wire, const Engine& engine,
                                     const RequestLimits& limits, absl::Time deadline);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_REQUEST_CONVERSION_H_
