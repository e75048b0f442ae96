// The states of sessions: where each lies while nobody uses it, and how it comes back. A session
// that comes to rest stays in its slot; when the slot is wanted its state goes to host memory
// (host_states.h), and what has no room there is read from its file, or its text is read again.
// Engine thread; its methods but Hold run between two rounds only.
//
// Turns of a request are in session_keeper.cc, what callers ask for in session_tasks.cc.

#ifndef MAMBAD_ENGINE_SESSIONS_SESSION_KEEPER_H_
#define MAMBAD_ENGINE_SESSIONS_SESSION_KEEPER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine_stats.h"
#include "engine/request.h"
#include "engine/sequence.h"
#include "engine/session.h"
#include "engine/sessions/host_states.h"
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
  SessionCounters counters() const;
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
  // `position`: as Request::session_position. False: the state there is being read from a file.
  // `keeps`: what the request makes of the session takes its place; else it stays as it is.
  bool Prepare(const std::shared_ptr<KeptSession>& session, int64_t position, bool keeps);
  // The slot that Give will hand over; -1: none.
  int SlotFor(const KeptSession& session, int64_t position) const;
  void Give(KeptSession& session, int64_t position, Sequence& sequence);
  // Brings its state at `position` into the slot that was taken for it, when Give handed over none:
  // from where, and how long that took. Nothing: there was none to bring.
  std::optional<SessionRestore> Restore(KeptSession& session, int64_t position, Sequence& sequence);
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
  void Checkpoint(const std::shared_ptr<SessionLease>& lease, const Sessions::Done& done);
  void Rewind(const std::shared_ptr<SessionLease>& lease, int64_t position,
              const Sessions::Done& done);
  absl::StatusOr<ExportedSession> Export(KeptSession& session);
  // When nothing of the sessions that are gone by now is in files.
  void TellWhenRemoved(const std::function<void()>& removed);
  void MakeRoom(const std::string& principal, SessionTarget& target,
                const std::function<void(const absl::Status&)>& done);

 private:
  class HoldingSink;

  static constexpr int64_t kItself = KeptSession::kItself;
  // What a write to a file ends with. The lease is its last share.
  using AfterWrite =
      std::function<void(SessionKeeper&, std::shared_ptr<SessionLease>, const absl::Status&)>;

  bool RunTasks();
  // Whether the state at `at` (kItself, or a checkpoint's position) is at hand, or is none; else it
  // is asked for.
  bool Ready(const std::shared_ptr<KeptSession>& session, int64_t at);
  void TakeFromFile(KeptSession& session, int64_t at,
                    const absl::StatusOr<std::shared_ptr<const SessionRecord>>& record);
  // Position of a text as `at`: its end is where the session stands itself.
  int64_t PlaceOf(const KeptSession& session, int64_t position) const;
  // Its state in host memory, made of its slot where it is not there yet. Null: no model has read
  // anything, or there is no room.
  std::shared_ptr<const SavedState> Save(KeptSession& session);
  void CutCheckpoints(KeptSession& session, int64_t position);  // those after it
  void LeaveSlot(KeptSession& session);
  void ForgetResting(const KeptSession& session);
  std::shared_ptr<SessionRecord> RecordOf(KeptSession& session, bool owned);
  void WriteFile(const std::shared_ptr<SessionLease>& lease, int64_t at,
                 std::shared_ptr<const SessionRecord> record, AfterWrite then);
  // Writes the session to its file, then calls `then`; at once where there are no files.
  void Persist(const std::shared_ptr<SessionLease>& lease, std::function<void(absl::Status)> then);
  void RemoveOldCheckpointFiles(KeptSession& session);
  // Answers a call that has changed a session when it is where it has to be; one that `is_new` is
  // not there where it does not come there.
  void FinishWith(const std::shared_ptr<SessionLease>& lease, bool is_new,
                  const Sessions::Done& done);
  void FinishCheckpoint(const std::shared_ptr<SessionLease>& lease, int64_t position,
                        const Sessions::Done& done);

  SlotTable& slots_;
  kernels::Backend& backend_;
  const std::shared_ptr<SessionTable> table_;
  HostStates states_;
  SessionFiles* const files_;

  std::vector<std::shared_ptr<KeptSession>> resting_;  // in slots; the one that came first is first
  std::vector<SessionTable::Task> waiting_;            // for a state
  std::vector<std::function<void()>> tells_;           // of the task at hand
  int writes_ = 0;                                     // to files, not done
  SessionCounters counters_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SESSIONS_SESSION_KEEPER_H_
