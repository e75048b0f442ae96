// Calls that go on with a session: from the wire's words to the engine's request. Any thread;
// ReadTurn computes: not for the network's threads.

#ifndef MAMBAD_SERVER_SESSION_TURNS_H_
#define MAMBAD_SERVER_SESSION_TURNS_H_

#include <atomic>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "mambad/v1/generation.pb.h"

namespace mambad::server {

// Whether the call has to do with a session.
bool HasSession(const v1::GenerateRequest& wire);

// Takes the session that a call names, or begins one that it asks for; its prompt of token ids, or
// none, then comes after the session's text. The principal of `request` must be set. Errors as
// session.proto has them.
absl::Status TakeSession(const v1::GenerateRequest& wire, Engine& engine, Request* request);

// The prompt of a prepared request with text, after TakeSession: what the session, if there is one,
// does not have yet. Errors as ReadPrompt (request_conversion.h); FAILED_PRECONDITION: the
// conversation is another one than the session's.
absl::Status ReadTurn(const v1::GenerateRequest& wire, const Engine& engine,
                      const v1::Limits& limits, const std::atomic<bool>& over, Request* request);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SESSION_TURNS_H_
