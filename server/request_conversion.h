// Wire requests to engine requests: validation of everything that is known at this edge, then the
// prompt. Pure functions of request, engine and limits; any thread. Prepare... is quick whatever
// the request holds; ReadPrompt computes: not for the network's threads.

#ifndef MAMBAD_SERVER_REQUEST_CONVERSION_H_
#define MAMBAD_SERVER_REQUEST_CONVERSION_H_

#include <atomic>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/engine.h"
#include "mambad/v1/generation.pb.h"
#include "server/message_reader.h"
#include "server/server_options.h"

namespace mambad::server {

// Limits after the engine's own facts are known: what GetModelInfo tells. Walks the vocabulary:
// once.
v1::Limits EffectiveLimits(const Engine& engine, const RequestLimits& limits);

// What of them must be seen to before a request is built.
EntryLimits EntryLimitsOf(const v1::Limits& limits);

// At most 128 printable ASCII characters: what may stand in a log.
bool IsValidRequestId(absl::string_view id);

struct PreparedGenerate {
  Request request;  // all but deadline, arrival, principal, session and, where HasText, the prompt
  int stream_interval = 1;
};

// Whether the prompt is a text or a conversation, which ReadPrompt makes token ids of.
bool HasText(const v1::GenerateRequest& wire);

// INVALID_ARGUMENT or UNIMPLEMENTED with google.rpc.BadRequest; FAILED_PRECONDITION when the model
// lacks a tokenizer or a chat template. Token ids are taken out of `wire`.
absl::StatusOr<PreparedGenerate> PrepareGenerate(v1::GenerateRequest& wire, const Engine& engine,
                                                 const v1::Limits& limits);

// A request with score_from set. Errors as above.
absl::StatusOr<Request> PrepareScore(v1::ScoreRequest& wire, const Engine& engine,
                                     const v1::Limits& limits);

// The prompt of a request with text that was prepared. `begins`: nothing comes before it, so that
// it begins as texts do; a conversation always does. Errors as above; CANCELLED when `over` has
// come true meanwhile.
absl::StatusOr<std::vector<TokenId>> ReadPrompt(const v1::GenerateRequest& wire,
                                                const Engine& engine, const v1::Limits& limits,
                                                const std::atomic<bool>& over, bool begins = true);
absl::StatusOr<std::vector<TokenId>> ReadPrompt(const v1::ScoreRequest& wire, const Engine& engine,
                                                const v1::Limits& limits,
                                                const std::atomic<bool>& over);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_REQUEST_CONVERSION_H_
