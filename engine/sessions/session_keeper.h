// The states of sessions: where each lies while nobody uses it, and how it comes back. A session
// that comes to rest stays in its slot; when the slot is wanted its state goes to host memory, and
// what has no room there is read from its file, or its text is read again. Engine thread; its
// methods but Hold run between two rounds only.

#ifndef MAMBAD_ENGINE_SESSIONS_SESSION_KEEPER_H_
#define MAMBAD_ENGINE_SESSIONS_SESSION_KEEPER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/request.h"
#include "engine/sequence.h"
#include "engine/session.h"
#include "engine/sessions/kept_session.h"
#include "engine/sessions/saved_state.h"
#include "engine/sessions/session_files.h"
#include "engine/sessions/session_record.h"
#include "engine/sessions/session_table.h"
#include "engine/state/slot_table.h"
#include "kernels/backend.h"

namespace mambad {

class SessionKeeper {
 public:
  // All outlive it. `files`: null: sessions end with the process.
  SessionKeeper(SlotTable& slots, kernels::Backend& backend, std::shared_ptr<SessionTable> table,
                std::shared_ptr<HostMemory> memory, SessionFiles* files);

  ~SessionKeeper() { table_->TakeTasks(); }  // their leases hold the table

  const std::shared_ptr<SessionTable>& table() const { return table_; }

  // Does what was asked for meanwhile, as far as states are at hand, and frees what is gone.
  void Advance(absl::Time now);
  // Of a task: to be called when its lease is given back, so that whoever is told may go on with
  // the session at once.
  void TellLater(std::function<void()> tell) { tells_.push_back(std::move(tell)); }
  // Nothing was asked for that is not done.
  bool idle() const { return waiting_.empty() && writes_ == 0 && !table_->has_tasks(); }

  // Slots that sessions rest in: as good as free.
  int resting() const { return static_cast<int>(resting_.size()); }
  // Frees the slot of the session that has rested longest, but not that of `except`. False: there
  // is none.
  bool ParkOldest(const KeptSession* except);

  // A request goes on with a session, in this order: Prepare until it says true; Give before slots
  // are taken for its answer; Restore when they are.
  //
  // False: its state is being read from a file. `keeps`: what the request makes of the session
  // takes its place; else it stays as it is.
  bool Prepare(const std::shared_ptr<KeptSession>& session, bool keeps);
  // The slot that Give will hand over; -1: none. `position`: as Request::session_position.
  int SlotFor(const KeptSession& session, int64_t position) const;
  void Give(KeptSession& session, int64_t position, Sequence& sequence);
  // Brings its state at `position` into the slot that was taken for it, when Give handed over none.
  void Restore(const KeptSession& session, int64_t position, Sequence& sequence);
  // What a request has made of its session from `position` on: text, with its SessionDigest, read
  // positions, and the slot, if it has one.
  void Rest(const std::shared_ptr<SessionLease>& lease, int64_t position, Sequence& sequence,
            std::string digest);

  // A sink that keeps the last event of an answer, which ends its session's turn, until the session
  // is where it outlives the process; an event that tells what went wrong takes its place where it
  // does not come there. `sink` itself where there are no files.
  std::shared_ptr<EventSink> Hold(const std::shared_ptr<SessionLease>& lease,
                                  std::shared_ptr<EventSink> sink);

  // What SessionTable asks for; states are at hand. `record`: null: nothing was read of the text.
  void Create(const std::shared_ptr<SessionLease>& lease, SessionText text,
              const SessionRecord* record, const Sessions::Done& done);
  void Fork(KeptSession& session, const std::shared_ptr<SessionLease>& other,
            const Sessions::Done& done);
  absl::StatusOr<SessionInfo> Checkpoint(KeptSession& session);
  void Rewind(const std::shared_ptr<SessionLease>& lease, int64_t position,
              const Sessions::Done& done);
  absl::StatusOr<ExportedSession> Export(KeptSession& session);

 private:
  class HoldingSink;

  // Whether the state is at hand; else it is asked for.
  bool Ready(const std::shared_ptr<KeptSession>& session);
  // Its state in host memory, made of its slot where it is not there yet. Null: no model has read
  // anything, or there is no room.
  std::shared_ptr<const SavedState> Save(KeptSession& session);
  std::shared_ptr<SavedState> MakeRoomFor(const ReadPosition& target, const ReadPosition& draft);
  bool DropOldestSaved();
  void SetSaved(KeptSession& session, std::shared_ptr<const SavedState> saved);
  void TakeFromFile(KeptSession& session,
                    const absl::StatusOr<std::shared_ptr<const SessionRecord>>& record);
  void LeaveSlot(KeptSession& session);
  void ForgetResting(const KeptSession& session);
  std::shared_ptr<SessionRecord> RecordOf(KeptSession& session, bool owned);
  // Writes the session to its file, then calls `then`; at once where there are no files.
  void Persist(const std::shared_ptr<SessionLease>& lease, std::function<void(absl::Status)> then);
  void FinishWith(const std::shared_ptr<SessionLease>& lease, const Sessions::Done& done);

  SlotTable& slots_;
  kernels::Backend& backend_;
  const std::shared_ptr<SessionTable> table_;
  const std::shared_ptr<HostMemory> memory_;
  SessionFiles* const files_;

  // The one that came first is first.
  std::vector<std::shared_ptr<KeptSession>> resting_;  // in slots
  std::vector<KeptSession*> saved_;                    // in host memory; they are the table's
  std::vector<SessionTable::Task> waiting_;            // for a state
  std::vector<std::function<void()>> tells_;           // of the task at hand
  const KeptSession* wanted_ = nullptr;                // by the request that is about to begin
  int writes_ = 0;                                     // to files, not done
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SESSIONS_SESSION_KEEPER_H_
