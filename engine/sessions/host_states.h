// Which states lie in host memory, and which give way when there is no room for another: first what
// is in a slot or a file, too; then, of whoever has most of the memory, what has lain there for
// longest. So whoever has no more than others have loses nothing to them. Checkpoints that lie
// nowhere else stay. Engine thread, but for totals().

#ifndef MAMBAD_ENGINE_SESSIONS_HOST_STATES_H_
#define MAMBAD_ENGINE_SESSIONS_HOST_STATES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/sessions/kept_session.h"
#include "engine/sessions/saved_state.h"
#include "engine/sessions/session_table.h"

namespace mambad {

class HostStates {
 public:
  HostStates(std::shared_ptr<HostMemory> memory, std::shared_ptr<SessionTable> table)
      : memory_(std::move(memory)), table_(std::move(table)) {}

  const std::shared_ptr<HostMemory>& memory() const { return memory_; }

  // The session's state, or that of its checkpoint `at`, is this one now; null: it is not here.
  void Set(KeptSession& session, int64_t at, std::shared_ptr<const SavedState> saved);
  // Nothing of the session is here any more.
  void Clear(KeptSession& session);

  // Whether so many bytes can be taken for `principal`, when what may give way to it has.
  // `incoming`: they are among the memory's incoming ones.
  bool MakeRoom(int64_t bytes, const std::string& principal, bool incoming = false);
  absl::Status NoRoom() const;  // in words

  // A session whose states stay until another is named; null: none.
  void Hold(const KeptSession* session) { held_ = session; }

  int64_t evictions() const { return evictions_; }  // states that were nowhere else

 private:
  struct Entry {
    KeptSession* session;  // the table's
    int64_t at;            // kItself, or the checkpoint's position
  };

  static std::shared_ptr<const SavedState>& StateOf(const Entry& entry);
  static bool IsElsewhere(const Entry& entry);
  // A state may give way; `lost`: though it is nowhere else.
  bool MayGo(const Entry& entry, bool lost) const;
  bool DropOldest(int64_t bytes, const std::string& principal);
  bool DropOldestOf(const std::string& principal);
  void Drop(size_t index);
  std::string WhoHasMost(int64_t bytes, const std::string& principal) const;

  const std::shared_ptr<HostMemory> memory_;
  const std::shared_ptr<SessionTable> table_;
  std::vector<Entry> entries_;  // the one that came first is first
  const KeptSession* held_ = nullptr;
  int64_t evictions_ = 0;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SESSIONS_HOST_STATES_H_
