#include "server/session_turns.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/request_conversion.h"
#include "server/status_details.h"

namespace mambad::server {
namespace {

// Where the session goes on with a text that is the whole conversation.
absl::StatusOr<int64_t> PositionIn(const std::vector<TokenId>& whole, const SessionLease& session) {
  const std::vector<TokenId>& text = session.tokens();
  const auto differs = std::mismatch(text.begin(), text.end(), whole.begin(), whole.end()).first;
  const auto common = static_cast<int64_t>(differs - text.begin());
  const auto position = static_cast<int64_t>(text.size());
  if (common == position) return position;
  const std::vector<int64_t>& checkpoints = session.checkpoints();
  const auto beyond = std::upper_bound(checkpoints.begin(), checkpoints.end(), common);
  if (beyond != checkpoints.begin()) return *(beyond - 1);
  return absl::FailedPreconditionError(absl::StrCat(
      "conversation: it has ", common, " tokens in common with the session, which stands at ",
      position, " and has ",
      checkpoints.empty() ? "no checkpoint"
                          : absl::StrCat("checkpoints at ", absl::StrJoin(checkpoints, ", ")),
      " to go on from"));
}

}  // namespace

bool HasSession(const v1::GenerateRequest& wire) {
  return !wire.session_id().empty() || wire.keep_session();
}

absl::Status TakeSession(const v1::GenerateRequest& wire, Engine& engine, Request* request) {
  if (!HasSession(wire)) return absl::OkStatus();
  Sessions* const sessions = engine.sessions();
  if (sessions == nullptr) {
    FieldViolations unserved;
    unserved.Add(wire.session_id().empty() ? "keep_session" : "session_id",
                 "sessions are not served");
    return unserved.ToStatus(absl::StatusCode::kUnimplemented);
  }
  auto lease = wire.session_id().empty() ? sessions->Begin(request->principal)
                                         : sessions->Take(request->principal, wire.session_id());
  if (!lease.ok()) return WithFieldDetails(lease.status());
  request->keep_session = wire.keep_session();
  const bool empty = request->prompt.empty() && (*lease)->tokens().empty();
  if (!HasText(wire) && empty) {
    FieldViolations violations;
    violations.Add("input", "none given, allowed only with a session that has a text");
    return violations.ToStatus();
  }
  if (HasText(wire)) {
    request->session = *std::move(lease);
  } else {
    request->GoOnWith(*std::move(lease));
  }
  return absl::OkStatus();
}

absl::Status ReadTurn(const v1::GenerateRequest& wire, const Engine& engine,
                      const v1::Limits& limits, const std::atomic<bool>& over, Request* request) {
  const std::shared_ptr<SessionLease> session = request->session;
  const bool begins = session == nullptr || session->tokens().empty();
  auto prompt = ReadPrompt(wire, engine, limits, over, /*begins=*/begins);
  if (!prompt.ok()) return prompt.status();
  request->prompt = *std::move(prompt);
  if (session == nullptr) return absl::OkStatus();
  auto position = static_cast<int64_t>(session->tokens().size());
  if (wire.has_conversation()) {
    auto found = PositionIn(request->prompt, *session);
    if (!found.ok()) return found.status();
    position = *found;
    request->prompt.erase(request->prompt.begin(), request->prompt.begin() + position);
  }
  request->GoOnWith(session, position);
  return absl::OkStatus();
}

}  // namespace mambad::server
