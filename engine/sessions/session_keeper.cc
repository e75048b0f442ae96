#include "engine/sessions/session_keeper.h"

#include <algorithm>
#include <utility>

#include "engine/steady_time.h"

namespace mambad {

// Keeps the event that ends an answer whose session is kept.
class SessionKeeper::HoldingSink final : public EventSink {
 public:
  HoldingSink(SessionTable* table, std::shared_ptr<SessionLease> lease,
              std::shared_ptr<EventSink> sink)
      : table_(table), lease_(std::move(lease)), sink_(std::move(sink)) {}

  bool OnEvent(const TokenEvent& event) override {
    if (!event.session.has_value()) return sink_->OnEvent(event);
    // A round may be running now.
    table_->Post(
        {nullptr, KeptSession::kItself,
         [lease = std::exchange(lease_, nullptr), sink = sink_, event](SessionKeeper& keeper) {
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
      states_(std::move(memory), table_),
      files_(files) {}

SessionCounters SessionKeeper::counters() const {
  SessionCounters counters = counters_;
  counters.evictions += states_.evictions();
  return counters;
}

void SessionKeeper::Advance(absl::Time now) {
  table_->Expire(now);
  // Before what is gone is looked for: one that tells of a removal comes behind it.
  for (SessionTable::Task& task : table_->TakeTasks()) waiting_.push_back(std::move(task));
  for (const auto& session : table_->TakeGone()) {
    LeaveSlot(*session);
    states_.Clear(*session);
    session->checkpoints.clear();
    session->gone = true;
    if (files_ == nullptr) continue;
    files_->Remove(session->id, kItself);
    RemoveOldCheckpointFiles(*session);
  }
  // What was done may be what another waits for, and nobody calls again until there is news.
  while (RunTasks() && !waiting_.empty()) {
  }
}

// Whether any was at hand.
bool SessionKeeper::RunTasks() {
  bool ran = false;
  std::vector<SessionTable::Task> later;
  for (SessionTable::Task& task : std::exchange(waiting_, {})) {
    if (task.session != nullptr && !Ready(task.session, task.at)) {
      later.push_back(std::move(task));
    } else {
      ran = true;
      task.run(*this);
      task = {};  // with its lease
      for (const auto& tell : std::exchange(tells_, {})) tell();
    }
  }
  waiting_ = std::move(later);
  return ran;
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
    const bool kept = Save(*session) != nullptr || session->in_file;
    if (!kept && session->target.fed > 0) ++counters_.evictions;
    ++counters_.parks;
    LeaveSlot(*session);
    table_->Publish(*session);
    return true;
  }
  return false;
}

std::shared_ptr<const SavedState> SessionKeeper::Save(KeptSession& session) {
  if (session.saved != nullptr || session.slot < 0) return session.saved;
  const ImageSize& target = slots_.target().image_size();
  const ImageSize* draft = slots_.draft() == nullptr ? nullptr : &slots_.draft()->image_size();
  const int64_t bytes =
      target.Bytes(session.target.fed, session.target.replay) +
      (draft == nullptr ? 0 : draft->Bytes(session.draft.fed, session.draft.replay));
  if (!states_.MakeRoom(bytes, session.principal)) return nullptr;
  const std::shared_ptr<SavedState> saved =
      SavedState::Make(states_.memory(), session.target, target, session.draft, draft);
  if (saved == nullptr) return nullptr;  // an import was quicker
  slots_.target().Save(session.slot, session.target.fed, session.target.replay,
                       saved->target().data());
  if (draft != nullptr) {
    slots_.draft()->Save(session.slot, session.draft.fed, session.draft.replay,
                         saved->draft().data());
  }
  backend_.Synchronize();
  counters_.snapshot_bytes += bytes;
  states_.Set(session, kItself, saved);
  return saved;
}

// ---- turns --------------------------------------------------------------------------------------

bool SessionKeeper::Ready(const std::shared_ptr<KeptSession>& session, int64_t at) {
  if (session->file_asked_for) return false;
  int64_t bytes = session->file_bytes;
  if (at == kItself) {
    if (session->slot >= 0 || session->saved != nullptr || !session->in_file) return true;
  } else {
    const KeptSession::Checkpoint* checkpoint = session->FindCheckpoint(at);
    if (checkpoint == nullptr || checkpoint->saved != nullptr || !checkpoint->in_file) return true;
    bytes = checkpoint->file_bytes;
  }
  // Where there is no room it cannot be read, and its text will be.
  states_.MakeRoom(bytes, session->principal);
  session->file_asked_for = true;
  if (!session->asked_at.has_value()) session->asked_at = SteadyNow();
  files_->Read(session->id, at, [table = table_, session, at](auto record) {
    table->Post(
        {nullptr, kItself, [session, at, record = std::move(record)](SessionKeeper& keeper) {
           if (!session->gone) keeper.TakeFromFile(*session, at, record);
         }});
  });
  return false;
}

// What cannot be read is not there: the text is. Nor is asked for again what has no state.
void SessionKeeper::TakeFromFile(
    KeptSession& session, int64_t at,
    const absl::StatusOr<std::shared_ptr<const SessionRecord>>& record) {
  session.file_asked_for = false;
  const std::shared_ptr<const SavedState> state = record.ok() ? (*record)->state : nullptr;
  if (at == kItself) {
    session.in_file = state != nullptr;
  } else if (KeptSession::Checkpoint* checkpoint = session.FindCheckpoint(at)) {
    checkpoint->in_file = state != nullptr;
  } else {
    return;
  }
  states_.Set(session, at, state);
  table_->Publish(session);
}

int64_t SessionKeeper::PlaceOf(const KeptSession& session, int64_t position) const {
  const auto end = static_cast<int64_t>(table_->TextOf(session)->size());
  return position == end ? kItself : position;
}

bool SessionKeeper::Prepare(const std::shared_ptr<KeptSession>& session, int64_t position,
                            bool keeps) {
  if (!Ready(session, PlaceOf(*session, position))) return false;
  states_.Hold(session.get());
  if (!keeps && session->slot >= 0) {
    Save(*session);
    LeaveSlot(*session);
    table_->Publish(*session);
  }
  return true;
}

int SessionKeeper::SlotFor(const KeptSession& session, int64_t position) const {
  return PlaceOf(session, position) == kItself ? session.slot : -1;
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

std::optional<SessionRestore> SessionKeeper::Restore(KeptSession& session, int64_t position,
                                                     Sequence& sequence) {
  states_.Hold(nullptr);
  const std::optional<absl::Time> asked_at = std::exchange(session.asked_at, std::nullopt);
  if (sequence.target.fed > 0) return std::nullopt;  // in its slot
  const absl::Time begin = SteadyNow();
  const int64_t at = PlaceOf(session, position);
  const KeptSession::Checkpoint* checkpoint = session.FindCheckpoint(at);
  const std::shared_ptr<const SavedState> saved = at == kItself           ? session.saved
                                                  : checkpoint == nullptr ? nullptr
                                                                          : checkpoint->saved;
  if (saved == nullptr) return std::nullopt;
  slots_.target().Restore(sequence.slot, saved->target_read.fed, saved->target_read.replay,
                          saved->target().data());
  sequence.target = saved->target_read;
  if (slots_.draft() != nullptr && !saved->draft().empty()) {
    slots_.draft()->Restore(sequence.slot, saved->draft_read.fed, saved->draft_read.replay,
                            saved->draft().data());
    sequence.draft = saved->draft_read;
  }
  backend_.Synchronize();
  ++counters_.restores;
  return SessionRestore{asked_at.has_value(),
                        absl::ToDoubleSeconds(SteadyNow() - asked_at.value_or(begin))};
}

void SessionKeeper::CutCheckpoints(KeptSession& session, int64_t position) {
  std::vector<KeptSession::Checkpoint>& checkpoints = session.checkpoints;
  while (!checkpoints.empty() && checkpoints.back().position > position) {
    states_.Set(session, checkpoints.back().position, nullptr);
    checkpoints.pop_back();
  }
}

void SessionKeeper::Rest(const std::shared_ptr<SessionLease>& lease, int64_t position,
                         Sequence& sequence, std::string digest) {
  const std::shared_ptr<KeptSession>& session = SessionTable::SessionOf(*lease);
  LeaveSlot(*session);  // where the request went on from a checkpoint
  states_.Set(*session, kItself, nullptr);
  CutCheckpoints(*session, position);
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

}  // namespace mambad
