#include "engine/sessions/session_keeper.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace mambad {
namespace {

constexpr size_t kMostCheckpoints = 64;  // of a session

absl::Status NoRoom(const HostMemory& memory) {
  return absl::ResourceExhaustedError(
      absl::StrCat("sessions.host_memory_bytes: no room for the session's state, ", memory.used(),
                   " of ", memory.limit(), " bytes are used"));
}

}  // namespace

// Keeps the event that ends an answer whose session is kept.
class SessionKeeper::HoldingSink final : public EventSink {
 public:
  HoldingSink(SessionTable* table, std::shared_ptr<SessionLease> lease,
              std::shared_ptr<EventSink> sink)
      : table_(table), lease_(std::move(lease)), sink_(std::move(sink)) {}

  bool OnEvent(const TokenEvent& event) override {
    if (!event.session.has_value()) return sink_->OnEvent(event);
    // A round may be running now.
    table_->Post({nullptr, [lease = std::exchange(lease_, nullptr), sink = sink_,
                            event](SessionKeeper& keeper) {
                    keeper.Persist(lease, [sink, event](const absl::Status& status) {
                      sink->OnEvent(status.ok() ? event : Failed(event, status));
                    });
                  }});
    return true;
  }

 private:
  static TokenEvent Failed(TokenEvent event, const absl::Status& status) {
    event.finish = FinishReason::kError;
    event.error = status;
    return event;
  }

  SessionTable* const table_;
  std::shared_ptr<SessionLease> lease_;
  const std::shared_ptr<EventSink> sink_;
};

SessionKeeper::SessionKeeper(SlotTable& slots, kernels::Backend& backend,
                             std::shared_ptr<SessionTable> table,
                             std::shared_ptr<HostMemory> memory, SessionFiles* files)
    : slots_(slots),
      backend_(backend),
      table_(std::move(table)),
      memory_(std::move(memory)),
      files_(files) {}

void SessionKeeper::Advance(absl::Time now) {
  table_->Expire(now);
  for (const auto& session : table_->TakeGone()) {
    LeaveSlot(*session);
    SetSaved(*session, nullptr);
    session->checkpoints.clear();
    session->gone = true;
    if (files_ != nullptr) files_->Remove(session->id);
  }
  for (SessionTable::Task& task : table_->TakeTasks()) waiting_.push_back(std::move(task));
  std::vector<SessionTable::Task> later;
  for (SessionTable::Task& task : std::exchange(waiting_, {})) {
    if (task.session != nullptr && !Ready(task.session)) {
      later.push_back(std::move(task));
    } else {
      task.run(*this);
      task = {};  // with its lease
      for (const auto& tell : std::exchange(tells_, {})) tell();
    }
  }
  waiting_ = std::move(later);
}

// ---- slots --------------------------------------------------------------------------------------

void SessionKeeper::LeaveSlot(KeptSession& session) {
  if (session.slot < 0) return;
  slots_.Release(session.slot);
  session.slot = -1;
  ForgetResting(session);
}

void SessionKeeper::ForgetResting(const KeptSession& session) {
  const auto is_it = [&](const auto& other) { return other.get() == &session; };
  resting_.erase(std::remove_if(resting_.begin(), resting_.end(), is_it), resting_.end());
}

bool SessionKeeper::ParkOldest(const KeptSession* except) {
  for (size_t i = 0; i < resting_.size(); ++i) {
    const std::shared_ptr<KeptSession> session = resting_[i];
    if (session.get() == except) continue;
    Save(*session);
    LeaveSlot(*session);
    table_->Publish(*session);
    return true;
  }
  return false;
}

std::shared_ptr<const SavedState> SessionKeeper::Save(KeptSession& session) {
  if (session.saved != nullptr || session.slot < 0) return session.saved;
  const std::shared_ptr<SavedState> saved = MakeRoomFor(session.target, session.draft);
  if (saved == nullptr) return nullptr;
  slots_.target().Save(session.slot, session.target.fed, session.target.replay,
                       saved->target().data());
  if (slots_.draft() != nullptr) {
    slots_.draft()->Save(session.slot, session.draft.fed, session.draft.replay,
                         saved->draft().data());
  }
  backend_.Synchronize();
  SetSaved(session, saved);
  return saved;
}

std::shared_ptr<SavedState> SessionKeeper::MakeRoomFor(const ReadPosition& target,
                                                       const ReadPosition& draft) {
  const ImageSize* draft_size = slots_.draft() == nullptr ? nullptr : &slots_.draft()->image_size();
  for (;;) {
    auto saved = SavedState::Make(memory_, target, slots_.target().image_size(), draft, draft_size);
    if (saved != nullptr || !DropOldestSaved()) return saved;
  }
}

// First those whose state is in a slot or a file, too.
bool SessionKeeper::DropOldestSaved() {
  const auto elsewhere = [this](const KeptSession* session) {
    return session != wanted_ && (session->slot >= 0 || session->in_file);
  };
  const auto any = [this](const KeptSession* session) { return session != wanted_; };
  auto oldest = std::find_if(saved_.begin(), saved_.end(), elsewhere);
  if (oldest == saved_.end()) oldest = std::find_if(saved_.begin(), saved_.end(), any);
  if (oldest == saved_.end()) return false;
  KeptSession& session = **oldest;
  SetSaved(session, nullptr);
  table_->Publish(session);
  return true;
}

void SessionKeeper::SetSaved(KeptSession& session, std::shared_ptr<const SavedState> saved) {
  const auto it = std::find(saved_.begin(), saved_.end(), &session);
  if (it != saved_.end()) saved_.erase(it);
  session.saved = std::move(saved);
  if (session.saved != nullptr) saved_.push_back(&session);
}

// ---- turns --------------------------------------------------------------------------------------

bool SessionKeeper::Ready(const std::shared_ptr<KeptSession>& session) {
  if (session->file_asked_for) return false;
  if (session->slot >= 0 || session->saved != nullptr || !session->in_file) return true;
  session->file_asked_for = true;
  files_->Read(session->id, [table = table_, session](auto record) {
    table->Post({nullptr, [session, record = std::move(record)](SessionKeeper& keeper) {
                   if (!session->gone) keeper.TakeFromFile(*session, record);
                 }});
  });
  return false;
}

// What cannot be read is not there: the text is. Nor is asked for again what has no state.
void SessionKeeper::TakeFromFile(
    KeptSession& session, const absl::StatusOr<std::shared_ptr<const SessionRecord>>& record) {
  session.file_asked_for = false;
  SetSaved(session, record.ok() ? (*record)->state : nullptr);
  session.in_file = session.saved != nullptr;
  table_->Publish(session);
}

bool SessionKeeper::Prepare(const std::shared_ptr<KeptSession>& session, bool keeps) {
  if (!Ready(session)) return false;
  wanted_ = session.get();
  if (!keeps && session->slot >= 0) {
    Save(*session);
    LeaveSlot(*session);
    table_->Publish(*session);
  }
  return true;
}

int SessionKeeper::SlotFor(const KeptSession& session, int64_t position) const {
  const auto end = static_cast<int64_t>(table_->TextOf(session)->size());
  return position == end ? session.slot : -1;
}

void SessionKeeper::Give(KeptSession& session, int64_t position, Sequence& sequence) {
  sequence.draft_statistics = session.draft_statistics;
  sequence.slot = SlotFor(session, position);
  if (sequence.slot < 0) return;
  sequence.target = session.target;
  sequence.draft = session.draft;
  ForgetResting(session);
  session.slot = -1;
}

void SessionKeeper::Restore(const KeptSession& session, int64_t position, Sequence& sequence) {
  wanted_ = nullptr;
  if (sequence.target.fed > 0) return;  // in its slot
  const SavedState* saved = session.saved.get();
  if (position < static_cast<int64_t>(table_->TextOf(session)->size())) {
    saved = nullptr;
    for (const KeptSession::Checkpoint& checkpoint : session.checkpoints) {
      if (checkpoint.position == position) saved = checkpoint.saved.get();
    }
  }
  if (saved == nullptr) return;
  slots_.target().Restore(sequence.slot, saved->target_read.fed, saved->target_read.replay,
                          saved->target().data());
  sequence.target = saved->target_read;
  if (slots_.draft() != nullptr && !saved->draft().empty()) {
    slots_.draft()->Restore(sequence.slot, saved->draft_read.fed, saved->draft_read.replay,
                            saved->draft().data());
    sequence.draft = saved->draft_read;
  }
  backend_.Synchronize();
}

void SessionKeeper::Rest(const std::shared_ptr<SessionLease>& lease, int64_t position,
                         Sequence& sequence, std::string digest) {
  const std::shared_ptr<KeptSession>& session = SessionTable::SessionOf(*lease);
  LeaveSlot(*session);  // where the request went on from a checkpoint
  SetSaved(*session, nullptr);
  std::vector<KeptSession::Checkpoint>& checkpoints = session->checkpoints;
  while (!checkpoints.empty() && checkpoints.back().position > position) checkpoints.pop_back();
  session->slot = std::exchange(sequence.slot, -1);
  session->target = sequence.target;
  session->draft = sequence.draft;
  session->draft_statistics = sequence.draft_statistics;
  if (session->slot >= 0) {
    slots_.Shrink(session->slot, sequence.size());
    resting_.push_back(session);
  }
  // The file is of an earlier text now.
  session->in_file = false;
  table_->SetText(*session, std::make_shared<const std::vector<TokenId>>(sequence.tokens),
                  std::move(digest));
  table_->Publish(*session);
}

std::shared_ptr<EventSink> SessionKeeper::Hold(const std::shared_ptr<SessionLease>& lease,
                                               std::shared_ptr<EventSink> sink) {
  if (files_ == nullptr) return sink;
  return std::make_shared<HoldingSink>(table_.get(), lease, std::move(sink));
}

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

void SessionKeeper::Persist(const std::shared_ptr<SessionLease>& lease,
                            std::function<void(absl::Status)> then) {
  if (files_ == nullptr) return then(absl::OkStatus());
  const std::shared_ptr<KeptSession>& session = SessionTable::SessionOf(*lease);
  ++writes_;
  // The lease goes on the engine thread, before anybody is told.
  auto held = std::make_shared<std::shared_ptr<SessionLease>>(lease);
  files_->Write(
      RecordOf(*session, /*owned=*/true),
      [table = table_, held, session, then = std::move(then)](const absl::Status& status) {
        table->Post({nullptr, [held, session, then, status](SessionKeeper& keeper) {
                       --keeper.writes_;
                       if (status.ok()) session->in_file = true;
                       keeper.table_->Publish(*session);
                       held->reset();
                       then(status);
                     }});
      });
}

// Answers a call that has changed a session, or made one, when it is where it has to be.
void SessionKeeper::FinishWith(const std::shared_ptr<SessionLease>& lease,
                               const Sessions::Done& done) {
  const std::shared_ptr<KeptSession> session = SessionTable::SessionOf(*lease);
  Persist(lease, [this, session, done](const absl::Status& status) {
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
    SetSaved(session, record->state);
  }
  table_->SetText(session, std::move(text));
  table_->Publish(session);
  FinishWith(lease, done);
}

void SessionKeeper::Fork(KeptSession& session, const std::shared_ptr<SessionLease>& other,
                         const Sessions::Done& done) {
  KeptSession& fork = *SessionTable::SessionOf(*other);
  SetSaved(fork, Save(session));
  table_->Publish(session);
  fork.exact = session.exact;
  fork.draft_statistics = session.draft_statistics;
  fork.checkpoints = session.checkpoints;
  table_->SetText(fork, table_->TextOf(session));
  table_->Publish(fork);
  FinishWith(other, done);
}

absl::StatusOr<SessionInfo> SessionKeeper::Checkpoint(KeptSession& session) {
  const auto position = static_cast<int64_t>(table_->TextOf(session)->size());
  std::vector<KeptSession::Checkpoint>& checkpoints = session.checkpoints;
  if (checkpoints.empty() || checkpoints.back().position != position) {
    if (checkpoints.size() >= kMostCheckpoints) {
      return absl::ResourceExhaustedError(absl::StrCat("the session has ", checkpoints.size(),
                                                       " checkpoints, at most ", kMostCheckpoints));
    }
    const bool has_state = session.slot >= 0 || session.saved != nullptr;
    std::shared_ptr<const SavedState> saved = Save(session);
    if (has_state && saved == nullptr) return NoRoom(*memory_);
    checkpoints.push_back({position, std::move(saved)});
  }
  table_->Publish(session);
  return table_->InfoOf(session);
}

void SessionKeeper::Rewind(const std::shared_ptr<SessionLease>& lease, int64_t position,
                           const Sessions::Done& done) {
  KeptSession& session = *SessionTable::SessionOf(*lease);
  std::vector<KeptSession::Checkpoint>& checkpoints = session.checkpoints;
  const auto it = std::find_if(checkpoints.begin(), checkpoints.end(), [&](const auto& checkpoint) {
    return checkpoint.position == position;
  });
  if (it == checkpoints.end()) {
    const auto append = [](std::string* out, const KeptSession::Checkpoint& checkpoint) {
      absl::StrAppend(out, checkpoint.position);
    };
    const absl::Status status = absl::FailedPreconditionError(
        absl::StrCat("position: ", position, " given, checkpoints are at [",
                     absl::StrJoin(checkpoints, ", ", append), "]"));
    return TellLater([done, status] { done(status); });
  }
  LeaveSlot(session);
  SetSaved(session, it->saved);
  session.in_file = false;
  checkpoints.erase(it + 1, checkpoints.end());
  const SessionText text = table_->TextOf(session);
  table_->SetText(session, std::make_shared<const std::vector<TokenId>>(text->begin(),
                                                                        text->begin() + position));
  table_->Publish(session);
  FinishWith(lease, done);
}

absl::StatusOr<ExportedSession> SessionKeeper::Export(KeptSession& session) {
  const bool has_state = session.slot >= 0 || session.saved != nullptr;
  std::shared_ptr<SessionRecord> record = RecordOf(session, /*owned=*/false);
  if (has_state && record->state == nullptr) return NoRoom(*memory_);
  table_->Publish(session);
  return ExportedSession{table_->InfoOf(session),
                         std::make_shared<SessionRecordWriter>(std::move(record))};
}

}  // namespace mambad
