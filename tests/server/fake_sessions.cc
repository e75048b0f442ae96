#include "tests/server/fake_sessions.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/sessions/session_record.h"

namespace mambad {
namespace {

using Lock = std::lock_guard<std::mutex>;

}  // namespace

class FakeSessions::Lease final : public SessionLease {
 public:
  Lease(std::shared_ptr<FakeSessions> sessions, std::shared_ptr<Session> session)
      : sessions_(std::move(sessions)),
        session_(std::move(session)),
        was_kept_(session_->listed),
        text_(session_->text),
        checkpoints_(session_->checkpoints) {
    session_->in_use = true;
  }
  ~Lease() override {
    Lock lock(sessions_->mutex_);
    session_->in_use = false;
    if (!session_->listed) sessions_->sessions_.erase(session_->id);
  }

  const std::string& id() const override { return session_->id; }
  const std::vector<TokenId>& tokens() const override { return text_; }
  const std::vector<int64_t>& checkpoints() const override { return checkpoints_; }
  bool was_kept() const override { return was_kept_; }
  Session& session() const { return *session_; }

 private:
  const std::shared_ptr<FakeSessions> sessions_;
  const std::shared_ptr<Session> session_;
  const bool was_kept_;
  const std::vector<TokenId> text_;
  const std::vector<int64_t> checkpoints_;
};

// ---- with the mutex held ------------------------------------------------------------------------

absl::StatusOr<std::shared_ptr<FakeSessions::Session>> FakeSessions::Find(
    const std::string& principal, const std::string& id) const {
  const auto it = sessions_.find(id);
  const bool found =
      it != sessions_.end() && it->second->listed && it->second->principal == principal;
  if (!found) return absl::NotFoundError("session_id: there is no such session");
  return it->second;
}

absl::StatusOr<std::shared_ptr<FakeSessions::Session>> FakeSessions::FindFree(
    const std::string& principal, const std::string& id) const {
  auto session = Find(principal, id);
  if (session.ok() && (*session)->in_use) {
    return absl::AbortedError(
        absl::StrCat("session_id: the session ", id, " is in use by another call"));
  }
  return session;
}

absl::StatusOr<std::shared_ptr<FakeSessions::Session>> FakeSessions::Add(
    const std::string& principal) {
  if (static_cast<int>(sessions_.size()) >= most_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", sessions_.size(), " sessions, at most ", most_));
  }
  auto session = std::make_shared<Session>();
  session->id = absl::StrFormat("%032x", ++made_);
  session->principal = principal;
  sessions_[session->id] = session;
  return session;
}

SessionInfo FakeSessions::InfoOf(const Session& session) const {
  SessionInfo info;
  info.id = session.id;
  info.position = static_cast<int64_t>(session.text.size());
  info.digest = SessionDigest(format_->names, session.text);
  info.checkpoints = session.checkpoints;
  info.in_use = session.in_use;
  info.exact = session.exact;
  return info;
}

// ---- any thread ---------------------------------------------------------------------------------

absl::StatusOr<std::shared_ptr<SessionLease>> FakeSessions::Take(const std::string& principal,
                                                                 const std::string& id) {
  Lock lock(mutex_);
  auto session = FindFree(principal, id);
  if (!session.ok()) return session.status();
  return std::make_shared<Lease>(shared_from_this(), *std::move(session));
}

absl::StatusOr<std::shared_ptr<SessionLease>> FakeSessions::Begin(const std::string& principal) {
  Lock lock(mutex_);
  auto session = Add(principal);
  if (!session.ok()) return session.status();
  return std::make_shared<Lease>(shared_from_this(), *std::move(session));
}

SessionFacts FakeSessions::Rest(const SessionLease& lease, int64_t position,
                                std::vector<TokenId> text) {
  Lock lock(mutex_);
  Session& session = static_cast<const Lease&>(lease).session();
  std::vector<int64_t>& checkpoints = session.checkpoints;
  while (!checkpoints.empty() && checkpoints.back() > position) checkpoints.pop_back();
  session.text = std::move(text);
  session.listed = true;
  return InfoOf(session);
}

void FakeSessions::Create(const std::string& principal, std::vector<TokenId> tokens, Done done) {
  const auto create = [&]() -> absl::StatusOr<SessionInfo> {
    Lock lock(mutex_);
    auto session = Add(principal);
    if (!session.ok()) return session.status();
    (*session)->text = std::move(tokens);
    (*session)->listed = true;
    return InfoOf(**session);
  };
  done(create());
}

absl::StatusOr<SessionInfo> FakeSessions::Get(const std::string& principal, const std::string& id) {
  Lock lock(mutex_);
  const auto session = Find(principal, id);
  if (!session.ok()) return session.status();
  return InfoOf(**session);
}

std::vector<SessionInfo> FakeSessions::List(const std::string& principal) {
  Lock lock(mutex_);
  std::vector<SessionInfo> infos;
  for (const auto& [id, session] : sessions_) {
    if (session->listed && session->principal == principal) infos.push_back(InfoOf(*session));
  }
  return infos;
}

SessionTotals FakeSessions::Totals() const {
  Lock lock(mutex_);
  SessionTotals totals;
  for (const auto& [id, session] : sessions_)
    totals.sessions[static_cast<size_t>(SessionTier::kText)] += session->listed;
  return totals;
}

absl::Status FakeSessions::Delete(const std::string& principal, const std::string& id,
                                  std::function<void()> removed) {
  {
    Lock lock(mutex_);
    const auto session = FindFree(principal, id);
    if (!session.ok()) return session.status();
    sessions_.erase(id);
  }
  removed();
  return absl::OkStatus();
}

void FakeSessions::Fork(const std::string& principal, const std::string& id, Done done) {
  const auto fork = [&]() -> absl::StatusOr<SessionInfo> {
    Lock lock(mutex_);
    const auto session = FindFree(principal, id);
    if (!session.ok()) return session.status();
    const auto other = Add(principal);
    if (!other.ok()) return other.status();
    const std::string name = (*other)->id;
    **other = **session;
    (*other)->id = name;
    return InfoOf(**other);
  };
  done(fork());
}

void FakeSessions::Checkpoint(const std::string& principal, const std::string& id, Done done) {
  const auto mark = [&]() -> absl::StatusOr<SessionInfo> {
    Lock lock(mutex_);
    const auto session = FindFree(principal, id);
    if (!session.ok()) return session.status();
    const auto position = static_cast<int64_t>((*session)->text.size());
    std::vector<int64_t>& checkpoints = (*session)->checkpoints;
    if (checkpoints.empty() || checkpoints.back() != position) checkpoints.push_back(position);
    return InfoOf(**session);
  };
  done(mark());
}

void FakeSessions::Rewind(const std::string& principal, const std::string& id, int64_t position,
                          Done done) {
  const auto rewind = [&]() -> absl::StatusOr<SessionInfo> {
    Lock lock(mutex_);
    const auto session = FindFree(principal, id);
    if (!session.ok()) return session.status();
    std::vector<int64_t>& checkpoints = (*session)->checkpoints;
    const auto it = std::find(checkpoints.begin(), checkpoints.end(), position);
    if (it == checkpoints.end()) {
      return absl::FailedPreconditionError(absl::StrCat("position: ", position,
                                                        " given, checkpoints are at [",
                                                        absl::StrJoin(checkpoints, ", "), "]"));
    }
    checkpoints.erase(it + 1, checkpoints.end());
    (*session)->text.resize(static_cast<size_t>(position));
    return InfoOf(**session);
  };
  done(rewind());
}

void FakeSessions::Export(const std::string& principal, const std::string& id, Exported done) {
  const auto take_out = [&]() -> absl::StatusOr<ExportedSession> {
    Lock lock(mutex_);
    const auto session = FindFree(principal, id);
    if (!session.ok()) return session.status();
    auto record = std::make_shared<SessionRecord>();
    record->names = format_->names;
    record->exact = (*session)->exact;
    record->tokens = std::make_shared<const std::vector<TokenId>>((*session)->text);
    return ExportedSession{InfoOf(**session), std::make_shared<SessionRecordWriter>(record)};
  };
  done(take_out());
}

std::unique_ptr<SessionTarget> FakeSessions::NewTarget(const std::string&, bool other_numerics) {
  SessionRecordReader::Rules rules;
  rules.other_numerics = other_numerics;
  return std::make_unique<SessionRecordReader>(format_, std::make_shared<HostMemory>(0), rules);
}

void FakeSessions::MakeRoom(const std::string&, SessionTarget&,
                            std::function<void(const absl::Status&)> done) {
  done(absl::ResourceExhaustedError("there is room for texts only"));
}

void FakeSessions::Import(const std::string& principal, std::unique_ptr<SessionTarget> target,
                          Done done) {
  const auto record = static_cast<SessionRecordReader&>(*target).Take();
  const auto take_in = [&]() -> absl::StatusOr<SessionInfo> {
    Lock lock(mutex_);
    const auto session = Add(principal);
    if (!session.ok()) return session.status();
    (*session)->text = *record->tokens;
    (*session)->exact = record->exact;
    (*session)->listed = true;
    return InfoOf(**session);
  };
  done(take_in());
}

}  // namespace mambad
