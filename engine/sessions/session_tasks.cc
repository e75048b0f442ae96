// What is asked of sessions besides turns: SessionKeeper's part that makes, marks, forks, takes
// back, exports and writes them.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/sessions/session_keeper.h"

namespace mambad {
namespace {

constexpr size_t kMostCheckpoints = 64;  // of a session

}  // namespace

// ---- files --------------------------------------------------------------------------------------

std::shared_ptr<SessionRecord> SessionKeeper::RecordOf(KeptSession& session, bool owned) {
  auto record = std::make_shared<SessionRecord>();
  const SessionFormat& format = table_->format();
  if (owned) {
    record->id = session.id;
    record->principal = session.principal;
  }
  record->names = format.names;
  record->layout = format.target.layout;
  if (format.draft.has_value()) record->draft_layout = format.draft->layout;
  record->exact = session.exact;
  record->tokens = table_->TextOf(session);
  record->state = Save(session);
  return record;
}

void SessionKeeper::WriteFile(const std::shared_ptr<SessionLease>& lease, int64_t at,
                              std::shared_ptr<const SessionRecord> record, AfterWrite then) {
  const std::string& id = SessionTable::SessionOf(*lease)->id;
  ++writes_;
  // The engine thread gets the last share of the lease, to give it back before anybody is told.
  auto held = std::make_shared<std::shared_ptr<SessionLease>>(lease);
  files_->Write(id, at, std::move(record),
                [table = table_, held, then = std::move(then)](const absl::Status& status) {
                  table->Post({nullptr, kItself, [held, then, status](SessionKeeper& keeper) {
                                 --keeper.writes_;
                                 then(keeper, std::move(*held), status);
                               }});
                });
}

void SessionKeeper::Persist(const std::shared_ptr<SessionLease>& lease,
                            std::function<void(absl::Status)> then) {
  if (files_ == nullptr) return then(absl::OkStatus());
  const std::shared_ptr<KeptSession>& session = SessionTable::SessionOf(*lease);
  const std::shared_ptr<const SessionRecord> record = RecordOf(*session, /*owned=*/true);
  const int64_t bytes = record->state == nullptr ? 0 : record->state->bytes();
  WriteFile(
      lease, kItself, record,
      [bytes, then = std::move(then)](SessionKeeper& keeper, std::shared_ptr<SessionLease> lease,
                                      const absl::Status& status) {
        KeptSession& session = *SessionTable::SessionOf(*lease);
        if (status.ok()) {
          session.in_file = bytes > 0;
          session.file_bytes = bytes;
          keeper.RemoveOldCheckpointFiles(session);
        }
        keeper.table_->Publish(session);
        lease.reset();
        then(status);
      });
}

void SessionKeeper::RemoveOldCheckpointFiles(KeptSession& session) {
  for (auto it = session.checkpoint_files.begin(); it != session.checkpoint_files.end();) {
    if (session.FindCheckpoint(*it) != nullptr) {
      ++it;
      continue;
    }
    files_->Remove(session.id, *it);
    it = session.checkpoint_files.erase(it);
  }
}

void SessionKeeper::TellWhenRemoved(const std::function<void()>& removed) {
  if (files_ == nullptr) return TellLater(removed);
  files_->Tell(removed);
}

void SessionKeeper::FinishWith(const std::shared_ptr<SessionLease>& lease, bool is_new,
                               const Sessions::Done& done) {
  const std::shared_ptr<KeptSession> session = SessionTable::SessionOf(*lease);
  Persist(lease, [this, session, is_new, done](const absl::Status& status) {
    if (is_new && !status.ok()) table_->Forget(*session);
    TellLater([this, session, done, status] {
      if (!status.ok()) return done(status);
      done(table_->InfoOf(*session));
    });
  });
}

// ---- what is asked for --------------------------------------------------------------------------

void SessionKeeper::Create(const std::shared_ptr<SessionLease>& lease, SessionText text,
                           const SessionRecord* record, const Sessions::Done& done) {
  KeptSession& session = *SessionTable::SessionOf(*lease);
  if (record != nullptr) {
    session.exact = record->exact;
    states_.Set(session, kItself, record->state);
  }
  table_->SetText(session, std::move(text));
  table_->Publish(session);
  FinishWith(lease, /*is_new=*/true, done);
}

void SessionKeeper::MakeRoom(const std::string& principal, SessionTarget& target,
                             const std::function<void(const absl::Status&)>& done) {
  auto& reader = static_cast<SessionRecordReader&>(target);
  const bool made =
      states_.MakeRoom(reader.wants_room(), principal, /*incoming=*/true) && reader.TakeRoom();
  const absl::Status status = made ? absl::OkStatus() : states_.NoRoom();
  TellLater([done, status] { done(status); });
}

void SessionKeeper::Fork(KeptSession& session, const std::shared_ptr<SessionLease>& other,
                         const Sessions::Done& done) {
  KeptSession& fork = *SessionTable::SessionOf(*other);
  states_.Set(fork, kItself, Save(session));
  table_->Publish(session);
  fork.exact = session.exact;
  fork.draft_statistics = session.draft_statistics;
  for (const KeptSession::Checkpoint& checkpoint : session.checkpoints) {
    fork.checkpoints.push_back(checkpoint);
    states_.Set(fork, checkpoint.position, checkpoint.saved);
    if (session.checkpoint_files.count(checkpoint.position) > 0)
      fork.checkpoint_files.insert(checkpoint.position);
  }
  table_->SetText(fork, table_->TextOf(session));
  table_->Publish(fork);
  if (fork.checkpoint_files.empty()) return FinishWith(other, /*is_new=*/true, done);
  // On the thread of files, before the session's own is written.
  auto shared = std::make_shared<absl::Status>();
  files_->Share(session.id, fork.id, {fork.checkpoint_files.begin(), fork.checkpoint_files.end()},
                [shared](const absl::Status& status) { *shared = status; });
  const std::shared_ptr<KeptSession> kept = SessionTable::SessionOf(*other);
  FinishWith(other, /*is_new=*/true, [this, kept, shared, done](absl::StatusOr<SessionInfo> info) {
    if (info.ok() && !shared->ok()) {
      table_->Forget(*kept);
      info = *shared;
    }
    done(std::move(info));
  });
}

void SessionKeeper::Checkpoint(const std::shared_ptr<SessionLease>& lease,
                               const Sessions::Done& done) {
  KeptSession& session = *SessionTable::SessionOf(*lease);
  const auto refuse = [&](const absl::Status& status) {
    TellLater([done, status] { done(status); });
  };
  const auto position = static_cast<int64_t>(table_->TextOf(session)->size());
  if (session.FindCheckpoint(position) != nullptr) return FinishCheckpoint(lease, position, done);
  if (session.checkpoints.size() >= kMostCheckpoints) {
    return refuse(
        absl::ResourceExhaustedError(absl::StrCat("the session has ", session.checkpoints.size(),
                                                  " checkpoints, at most ", kMostCheckpoints)));
  }
  const bool has_state = session.slot >= 0 || session.saved != nullptr;
  const std::shared_ptr<const SavedState> saved = Save(session);
  if (has_state && saved == nullptr) return refuse(states_.NoRoom());
  session.checkpoints.push_back({position, nullptr});
  states_.Set(session, position, saved);
  FinishCheckpoint(lease, position, done);
}

// One that is in no file goes there, as where it cannot it is none.
void SessionKeeper::FinishCheckpoint(const std::shared_ptr<SessionLease>& lease, int64_t position,
                                     const Sessions::Done& done) {
  const std::shared_ptr<KeptSession> session = SessionTable::SessionOf(*lease);
  table_->Publish(*session);
  if (files_ == nullptr || session->checkpoint_files.count(position) > 0) {
    SessionInfo info = table_->InfoOf(*session);
    info.in_use = false;  // when it is told
    return TellLater([done, info] { done(info); });
  }
  const std::shared_ptr<SessionRecord> record = RecordOf(*session, /*owned=*/false);
  record->state = session->FindCheckpoint(position)->saved;
  const int64_t bytes = record->state == nullptr ? 0 : record->state->bytes();
  const auto after = [session, position, bytes, done](SessionKeeper& keeper,
                                                      std::shared_ptr<SessionLease> lease,
                                                      const absl::Status& status) {
    if (!status.ok()) {
      keeper.CutCheckpoints(*session, position - 1);
      keeper.table_->Publish(*session);
      lease.reset();
      return keeper.TellLater([done, status] { done(status); });
    }
    KeptSession::Checkpoint& checkpoint = *session->FindCheckpoint(position);
    checkpoint.in_file = bytes > 0;
    checkpoint.file_bytes = bytes;
    session->checkpoint_files.insert(position);
    // A checkpoint counts as the beginning of the text that is in the session's own file.
    if (!session->in_file) return keeper.FinishWith(lease, /*is_new=*/false, done);
    lease.reset();
    keeper.TellLater([&keeper, session, done] { done(keeper.table_->InfoOf(*session)); });
  };
  WriteFile(lease, position, record, after);
}

void SessionKeeper::Rewind(const std::shared_ptr<SessionLease>& lease, int64_t position,
                           const Sessions::Done& done) {
  KeptSession& session = *SessionTable::SessionOf(*lease);
  const std::vector<KeptSession::Checkpoint>& checkpoints = session.checkpoints;
  const KeptSession::Checkpoint* checkpoint = session.FindCheckpoint(position);
  if (checkpoint == nullptr) {
    const auto append = [](std::string* out, const KeptSession::Checkpoint& checkpoint) {
      absl::StrAppend(out, checkpoint.position);
    };
    const absl::Status status = absl::FailedPreconditionError(
        absl::StrCat("position: ", position, " given, checkpoints are at [",
                     absl::StrJoin(checkpoints, ", ", append), "]"));
    return TellLater([done, status] { done(status); });
  }
  LeaveSlot(session);
  states_.Set(session, kItself, checkpoint->saved);
  session.in_file = false;
  CutCheckpoints(session, position);
  const SessionText text = table_->TextOf(session);
  table_->SetText(session, std::make_shared<const std::vector<TokenId>>(text->begin(),
                                                                        text->begin() + position));
  table_->Publish(session);
  FinishWith(lease, /*is_new=*/false, done);
}

absl::StatusOr<ExportedSession> SessionKeeper::Export(KeptSession& session) {
  const bool has_state = session.slot >= 0 || session.saved != nullptr;
  std::shared_ptr<SessionRecord> record = RecordOf(session, /*owned=*/false);
  if (has_state && record->state == nullptr) return states_.NoRoom();
  table_->Publish(session);
  return ExportedSession{table_->InfoOf(session),
                         std::make_shared<SessionRecordWriter>(std::move(record))};
}

}  // namespace mambad
