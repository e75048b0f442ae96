// One session: its text, who may have it, and where its state is.

#ifndef MAMBAD_ENGINE_SESSIONS_KEPT_SESSION_H_
#define MAMBAD_ENGINE_SESSIONS_KEPT_SESSION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/options.h"
#include "engine/read_position.h"
#include "engine/session.h"
#include "engine/sessions/saved_state.h"
#include "engine/speculation/draft_length.h"

namespace mambad {

using SessionText = std::shared_ptr<const std::vector<TokenId>>;

struct KeptSession {
  // Instead of a checkpoint's position: where the session stands.
  static constexpr int64_t kItself = -1;

  struct Checkpoint {
    int64_t position = 0;
    std::shared_ptr<const SavedState> saved;  // null: it is in a file, or the text is read again
    bool in_file = false;
    int64_t file_bytes = 0;  // of that state
  };

  KeptSession(std::string id, std::string principal)
      : id(std::move(id)), principal(std::move(principal)) {}

  const std::string id, principal;

  // SessionTable's, under its mutex.
  bool in_use = false;
  bool listed = false;  // it has been kept once, and was not deleted since
  absl::Time last_used = absl::InfinitePast();
  // It has been used, or was added, since the engine thread last looked: so long before that.
  std::optional<absl::Duration> used_before = absl::ZeroDuration();
  SessionText text = std::make_shared<const std::vector<TokenId>>();
  SessionInfo info;  // as it was published last

  // The engine thread's, once it is listed or begins to run. The state is in the slot, else in
  // `saved`, else in the file; a state that is nowhere is none.
  int slot = -1;
  ReadPosition target, draft;        // of the slot
  DraftStatistics draft_statistics;  // acceptance as the session has seen it
  std::shared_ptr<const SavedState> saved;
  bool in_file = false;
  int64_t file_bytes = 0;              // of that state
  bool file_asked_for = false;         // its state, or a checkpoint's, is being read
  std::optional<absl::Time> asked_at;  // for what was read since a request went on with it
  bool exact = true;
  bool gone = false;                    // nobody finds it any more
  std::vector<Checkpoint> checkpoints;  // by position
  // Whose files are there; those of checkpoints that the session has no more go when it is in its
  // own file next, as that may still be of the text that had them.
  std::set<int64_t> checkpoint_files;

  // Null: there is none.
  Checkpoint* FindCheckpoint(int64_t position) {
    for (Checkpoint& checkpoint : checkpoints) {
      if (checkpoint.position == position) return &checkpoint;
    }
    return nullptr;
  }
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SESSIONS_KEPT_SESSION_H_
