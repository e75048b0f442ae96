#include "engine/sessions/session_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/sessions/session_keeper.h"
#include "engine/sessions/session_record.h"
#include "engine/steady_time.h"

namespace mambad {

class SessionTable::Lease final : public SessionLease {
 public:
  Lease(std::shared_ptr<SessionTable> table, std::shared_ptr<KeptSession> session, bool was_kept,
        SessionText text, std::vector<int64_t> checkpoints)
      : table_(std::move(table)),
        session_(std::move(session)),
        was_kept_(was_kept),
        text_(std::move(text)),
        checkpoints_(std::move(checkpoints)) {}
  ~Lease() override { table_->Release(session_); }

  const std::string& id() const override { return session_->id; }
  const std::vector<TokenId>& tokens() const override { return *text_; }
  const std::vector<int64_t>& checkpoints() const override { return checkpoints_; }
  bool was_kept() const override { return was_kept_; }
  const std::shared_ptr<KeptSession>& session() const { return session_; }

 private:
  const std::shared_ptr<SessionTable> table_;
  const std::shared_ptr<KeptSession> session_;
  const bool was_kept_;
  const SessionText text_;
  const std::vector<int64_t> checkpoints_;
};

const std::shared_ptr<KeptSession>& SessionTable::SessionOf(const SessionLease& lease) {
  return static_cast<const Lease&>(lease).session();
}

// ---- leases -------------------------------------------------------------------------------------

absl::StatusOr<std::shared_ptr<KeptSession>> SessionTable::Find(const std::string& principal,
                                                                const std::string& id) const {
  const auto it = sessions_.find(id);
  const bool found =
      it != sessions_.end() && it->second->listed && it->second->principal == principal;
  // Neither the name nor whether another has it is repeated.
  if (!found) return absl::NotFoundError("session_id: there is no such session");
  return it->second;
}

absl::StatusOr<std::shared_ptr<SessionLease>> SessionTable::Take(const std::string& principal,
                                                                 const std::string& id) {
  MutexLock lock(&mutex_);
  auto session = Find(principal, id);
  if (!session.ok()) return session.status();
  if ((*session)->in_use) {
    return absl::AbortedError(
        absl::StrCat("session_id: the session ", id, " is in use by another call"));
  }
  (*session)->in_use = true;
  SessionText text = (*session)->text;
  std::vector<int64_t> checkpoints = (*session)->info.checkpoints;
  return std::make_shared<Lease>(shared_from_this(), *std::move(session), /*was_kept=*/true,
                                 std::move(text), std::move(checkpoints));
}

absl::StatusOr<std::shared_ptr<SessionLease>> SessionTable::Begin(const std::string& principal) {
  MutexLock lock(&mutex_);
  if (static_cast<int>(sessions_.size()) >= limits_.sessions) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", sessions_.size(), " sessions, at most ", limits_.sessions));
  }
  if (text_bytes_ >= limits_.text_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("sessions' texts take ", text_bytes_, " bytes, at most ", limits_.text_bytes));
  }
  std::string id;
  do {
    id.clear();
    for (int i = 0; i < 4; ++i) absl::StrAppendFormat(&id, "%08x", random_());
  } while (sessions_.count(id) > 0);
  auto session = std::make_shared<KeptSession>(id, principal);
  session->in_use = true;
  sessions_[id] = session;
  used_.push_back(session);
  SessionText text = session->text;
  return std::make_shared<Lease>(shared_from_this(), std::move(session), /*was_kept=*/false,
                                 std::move(text), std::vector<int64_t>());
}

void SessionTable::Release(const std::shared_ptr<KeptSession>& session) {
  {
    MutexLock lock(&mutex_);
    session->in_use = false;
    session->used_before = absl::ZeroDuration();
    used_.push_back(session);
    if (!session->listed) Remove(session->id);
  }
  Wake();
}

void SessionTable::Remove(const std::string& id) {
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  if (it->second->listed) text_bytes_ -= static_cast<int64_t>(4 * it->second->text->size());
  it->second->listed = false;
  gone_.push_back(std::move(it->second));
  sessions_.erase(it);
}

// ---- what needs no state ------------------------------------------------------------------------

SessionInfo SessionTable::InfoOf(const KeptSession& session) {
  MutexLock lock(&mutex_);
  SessionInfo info = session.info;
  info.in_use = session.in_use;
  info.idle =
      session.used_before.value_or(std::max(absl::ZeroDuration(), SteadyNow() - session.last_used));
  return info;
}

absl::StatusOr<SessionInfo> SessionTable::Get(const std::string& principal, const std::string& id) {
  absl::StatusOr<std::shared_ptr<KeptSession>> session(absl::UnknownError(""));
  {
    MutexLock lock(&mutex_);
    session = Find(principal, id);
  }
  if (!session.ok()) return session.status();
  return InfoOf(**session);
}

std::vector<SessionInfo> SessionTable::List(const std::string& principal) {
  std::vector<std::shared_ptr<KeptSession>> found;
  {
    MutexLock lock(&mutex_);
    for (const auto& [id, session] : sessions_) {
      if (session->listed && session->principal == principal) found.push_back(session);
    }
  }
  std::vector<SessionInfo> infos;
  for (const auto& session : found) infos.push_back(InfoOf(*session));
  return infos;
}

SessionTotals SessionTable::Totals() const {
  SessionTotals totals;
  totals.host_bytes = memory_->used();
  MutexLock lock(&mutex_);
  for (const auto& [id, session] : sessions_) {
    if (!session->listed) continue;
    ++totals.sessions[static_cast<size_t>(session->info.tier)];
    totals.file_bytes += session->info.file_bytes;
  }
  return totals;
}

absl::Status SessionTable::Delete(const std::string& principal, const std::string& id,
                                  std::function<void()> removed) {
  {
    MutexLock lock(&mutex_);
    const auto session = Find(principal, id);
    if (!session.ok()) return session.status();
    if ((*session)->in_use) {
      return absl::AbortedError(
          absl::StrCat("session_id: the session ", id, " is in use by another call"));
    }
    Remove(id);
  }
  Post({nullptr, KeptSession::kItself, [removed = std::move(removed)](SessionKeeper& keeper) {
          keeper.TellWhenRemoved(removed);
        }});
  return absl::OkStatus();
}

// ---- what the engine thread does ----------------------------------------------------------------

void SessionTable::Post(Task task) {
  {
    MutexLock lock(&mutex_);
    tasks_.push_back(std::move(task));
  }
  Wake();
}

void SessionTable::SetWake(std::function<void()> wake) {
  MutexLock lock(&mutex_);
  wake_ = std::move(wake);
}

void SessionTable::Wake() {
  std::function<void()> wake;
  {
    MutexLock lock(&mutex_);
    wake = wake_;
  }
  if (wake) wake();
}

bool SessionTable::has_tasks() const {
  MutexLock lock(&mutex_);
  return !tasks_.empty();
}

std::vector<SessionTable::Task> SessionTable::TakeTasks() {
  MutexLock lock(&mutex_);
  return std::exchange(tasks_, {});
}

std::vector<std::shared_ptr<KeptSession>> SessionTable::TakeGone() {
  MutexLock lock(&mutex_);
  return std::exchange(gone_, {});
}

void SessionTable::PostFor(
    const std::string& principal, const std::string& id, int64_t at,
    const std::function<void(absl::Status)>& refuse,
    std::function<void(SessionKeeper&, const std::shared_ptr<SessionLease>&)> run) {
  auto lease = Take(principal, id);
  if (!lease.ok()) return refuse(lease.status());
  Task task;
  task.session = SessionOf(**lease);
  task.at = at;
  // The task alone holds the lease: it is over when the caller is told.
  task.run = [lease = *std::move(lease), run = std::move(run)](SessionKeeper& keeper) {
    run(keeper, lease);
  };
  Post(std::move(task));
}

void SessionTable::Create(const std::string& principal, std::vector<TokenId> tokens, Done done) {
  auto lease = Begin(principal);
  if (!lease.ok()) return done(lease.status());
  auto text = std::make_shared<const std::vector<TokenId>>(std::move(tokens));
  Post({nullptr, KeptSession::kItself,
        [lease = *std::move(lease), text, done = std::move(done)](SessionKeeper& keeper) {
          keeper.Create(lease, text, /*record=*/nullptr, done);
        }});
}

std::unique_ptr<SessionTarget> SessionTable::NewTarget(const std::string& principal,
                                                       bool other_numerics) {
  SessionRecordReader::Rules rules;
  rules.other_numerics = other_numerics;
  rules.waits_for_room = true;
  rules.principal = principal;
  return std::make_unique<SessionRecordReader>(format_, memory_, rules);
}

void SessionTable::MakeRoom(const std::string& principal, SessionTarget& target,
                            std::function<void(const absl::Status&)> done) {
  Post({nullptr, KeptSession::kItself,
        [principal, &target, done = std::move(done)](SessionKeeper& keeper) {
          keeper.MakeRoom(principal, target, done);
        }});
}

void SessionTable::Import(const std::string& principal, std::unique_ptr<SessionTarget> target,
                          Done done) {
  const std::shared_ptr<const SessionRecord> record =
      static_cast<SessionRecordReader&>(*target).Take();
  auto lease = Begin(principal);
  if (!lease.ok()) return done(lease.status());
  Post({nullptr, KeptSession::kItself,
        [lease = *std::move(lease), record, done = std::move(done)](SessionKeeper& keeper) {
          keeper.Create(lease, record->tokens, record.get(), done);
        }});
}

void SessionTable::Fork(const std::string& principal, const std::string& id, Done done) {
  PostFor(
      principal, id, KeptSession::kItself, done,
      [this, principal, done](SessionKeeper& keeper, const std::shared_ptr<SessionLease>& lease) {
        auto other = Begin(principal);
        if (!other.ok()) return keeper.TellLater([done, other] { done(other.status()); });
        keeper.Fork(*SessionOf(*lease), *other, done);
      });
}

void SessionTable::Checkpoint(const std::string& principal, const std::string& id, Done done) {
  PostFor(principal, id, KeptSession::kItself, done,
          [done](SessionKeeper& keeper, const std::shared_ptr<SessionLease>& lease) {
            keeper.Checkpoint(lease, done);
          });
}

void SessionTable::Rewind(const std::string& principal, const std::string& id, int64_t position,
                          Done done) {
  PostFor(principal, id, position, done,
          [position, done](SessionKeeper& keeper, const std::shared_ptr<SessionLease>& lease) {
            keeper.Rewind(lease, position, done);
          });
}

void SessionTable::Export(const std::string& principal, const std::string& id, Exported done) {
  PostFor(principal, id, KeptSession::kItself, done,
          [done](SessionKeeper& keeper, const std::shared_ptr<SessionLease>& lease) {
            auto exported = keeper.Export(*SessionOf(*lease));
            if (exported.ok()) exported->info.in_use = false;  // when it is told
            keeper.TellLater([done, exported = std::move(exported)] { done(exported); });
          });
}

// ---- what the engine thread tells ---------------------------------------------------------------

void SessionTable::SetText(KeptSession& session, SessionText text) {
  std::string digest = SessionDigest(format_->names, *text);
  SetText(session, std::move(text), std::move(digest));
}

void SessionTable::SetText(KeptSession& session, SessionText text, std::string digest) {
  MutexLock lock(&mutex_);
  if (session.listed) text_bytes_ -= static_cast<int64_t>(4 * session.text->size());
  text_bytes_ += static_cast<int64_t>(4 * text->size());
  session.listed = true;
  session.text = std::move(text);
  session.info.id = session.id;
  session.info.position = static_cast<int64_t>(session.text->size());
  session.info.digest = std::move(digest);
}

SessionText SessionTable::TextOf(const KeptSession& session) const {
  MutexLock lock(&mutex_);
  return session.text;
}

void SessionTable::Publish(KeptSession& session) {
  SessionInfo info;
  info.tier = session.slot >= 0          ? SessionTier::kSlot
              : session.saved != nullptr ? SessionTier::kHost
              : session.in_file          ? SessionTier::kDisk
                                         : SessionTier::kText;
  if (session.slot >= 0) {
    info.state_bytes = format_->target.Bytes(session.target.fed, session.target.replay);
  } else if (session.saved != nullptr) {
    info.state_bytes = session.saved->bytes();
  }
  for (const KeptSession::Checkpoint& checkpoint : session.checkpoints) {
    info.checkpoints.push_back(checkpoint.position);
    if (checkpoint.saved != nullptr) info.state_bytes += checkpoint.saved->bytes();
    if (checkpoint.in_file) info.file_bytes += checkpoint.file_bytes;
  }
  if (session.in_file) info.file_bytes += session.file_bytes;
  info.exact = session.exact;
  MutexLock lock(&mutex_);
  static_cast<SessionFacts&>(info) = session.info;
  session.info = std::move(info);
}

void SessionTable::Add(const std::shared_ptr<KeptSession>& session, SessionText text) {
  {
    MutexLock lock(&mutex_);
    sessions_[session->id] = session;
    used_.push_back(session);
  }
  SetText(*session, std::move(text));
  Publish(*session);
}

void SessionTable::Forget(const KeptSession& session) {
  {
    MutexLock lock(&mutex_);
    Remove(session.id);
  }
  Wake();
}

void SessionTable::Expire(absl::Time now) {
  MutexLock lock(&mutex_);
  for (const auto& session : std::exchange(used_, {})) {
    if (!session->used_before.has_value()) continue;  // it stood there twice
    session->last_used = now - *session->used_before;
    session->used_before.reset();
    next_expiry_ = std::min(next_expiry_, session->last_used + limits_.idle_time);
  }
  if (limits_.idle_time > absl::ZeroDuration() && next_expiry_ <= now) RemoveLate(now);
}

void SessionTable::RemoveLate(absl::Time now) {
  next_expiry_ = absl::InfiniteFuture();
  std::vector<std::string> late;
  for (const auto& [id, session] : sessions_) {
    if (session->in_use) continue;
    const absl::Time end = session->last_used + limits_.idle_time;
    if (end <= now) {
      late.push_back(id);
    } else {
      next_expiry_ = std::min(next_expiry_, end);
    }
  }
  for (const std::string& id : late) Remove(id);
}

absl::Time SessionTable::NextExpiry() const {
  if (limits_.idle_time <= absl::ZeroDuration()) return absl::InfiniteFuture();
  MutexLock lock(&mutex_);
  return used_.empty() ? next_expiry_ : absl::InfinitePast();
}

}  // namespace mambad
