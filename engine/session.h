// Sessions: texts that outlive the call that wrote them, with the models' state of them. Plain
// data and the door to them; Engine::sessions() has it.
//
// The text, its tokens, is what a session is. The state says how far the models have read it, and
// is kept in the slot where it came to rest, in host memory or in a file, as room allows; where it
// is lost the text is read again. So where a session was kept changes how fast it goes on, never
// with which bits: as one fresh request over the whole text would.

#ifndef MAMBAD_ENGINE_SESSION_H_
#define MAMBAD_ENGINE_SESSION_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/options.h"

namespace mambad {

// Where the state lies that a session would go on with.
enum class SessionTier {
  kText,  // nowhere: the text is read anew
  kSlot,  // in a slot of its own
  kHost,  // in host memory
  kDisk,  // in a file
};

// What of a session every answer tells.
struct SessionFacts {
  std::string id;
  int64_t position = 0;  // tokens of its text
  std::string digest;    // SessionDigest
};

struct SessionInfo : SessionFacts {
  SessionTier tier = SessionTier::kText;
  int64_t state_bytes = 0;           // in the slot or in host memory, its checkpoints' too
  int64_t file_bytes = 0;            // of states in files, its checkpoints' too
  std::vector<int64_t> checkpoints;  // positions, ascending
  absl::Duration idle;               // since its last use
  bool in_use = false;               // by a call
  bool exact = true;                 // false: some of its state comes of other numerics
};

// What a call holds of a session while no other call may have it: until its last share goes.
class SessionLease {
 public:
  virtual ~SessionLease() = default;
  virtual const std::string& id() const = 0;
  // The text so far, unchanged for as long as the lease lives.
  virtual const std::vector<TokenId>& tokens() const = 0;
  // Where the text can be gone on from besides its end, ascending.
  virtual const std::vector<int64_t>& checkpoints() const = 0;
  // It was there before this call, and stays if the call keeps nothing.
  virtual bool was_kept() const = 0;
};

// A session's record (engine/sessions/session_record.h) on its way out; one thread at a time.
class SessionSource {
 public:
  virtual ~SessionSource() = default;
  virtual int64_t total_bytes() const = 0;
  // The next bytes, at most so many; none: that was all.
  virtual std::string Next(int64_t most) = 0;
};

struct ExportedSession {
  SessionInfo info;
  std::shared_ptr<SessionSource> source;
};

// How many there are, of all principals, and what they take.
struct SessionTotals {
  std::array<int64_t, 4> sessions{};  // by SessionTier
  int64_t host_bytes = 0;             // of states in host memory
  int64_t file_bytes = 0;             // of states in files
};

// A record on its way in, which anybody may have written; one thread at a time. What is not as it
// must be is refused before memory is taken for it.
class SessionTarget {
 public:
  virtual ~SessionTarget() = default;
  // INVALID_ARGUMENT: it is no session's record, or damaged; FAILED_PRECONDITION: it is of another
  // format, model, tokenizer, numerics or layout, which it names; RESOURCE_EXHAUSTED: there is no
  // memory for its state. After an error nothing more may be read.
  virtual absl::Status Read(absl::string_view piece) = 0;
  // Bytes of host memory for which room must be made (Sessions::MakeRoom) before more is read than
  // the piece at hand, which waits; 0: none.
  virtual int64_t wants_room() const = 0;
  // All of it has come.
  virtual bool done() const = 0;
};

// Any thread. Whoever is not the principal that made a session finds none of that name: NOT_FOUND.
// ABORTED: another call has it. RESOURCE_EXHAUSTED: there are as many as there may be.
class Sessions {
 public:
  // Called on a thread of the engine's; must be quick.
  using Done = std::function<void(absl::StatusOr<SessionInfo>)>;
  using Exported = std::function<void(absl::StatusOr<ExportedSession>)>;

  virtual ~Sessions() = default;

  // For a call that goes on with a session, or that makes one: it is there once it is kept.
  virtual absl::StatusOr<std::shared_ptr<SessionLease>> Take(const std::string& principal,
                                                             const std::string& id) = 0;
  virtual absl::StatusOr<std::shared_ptr<SessionLease>> Begin(const std::string& principal) = 0;

  // A session of a text that no model has read yet; it may be empty.
  virtual void Create(const std::string& principal, std::vector<TokenId> tokens, Done done) = 0;
  virtual absl::StatusOr<SessionInfo> Get(const std::string& principal, const std::string& id) = 0;
  // In the order of their ids.
  virtual std::vector<SessionInfo> List(const std::string& principal) = 0;
  virtual SessionTotals Totals() const = 0;
  // Nobody finds it from now on; `removed` is called, as Done, when no later process will either.
  // After an error it is not.
  virtual absl::Status Delete(const std::string& principal, const std::string& id,
                              std::function<void()> removed) = 0;

  // Another session with the same text and state; the info is the new one's.
  virtual void Fork(const std::string& principal, const std::string& id, Done done) = 0;
  // Keeps the state at the session's position, to come back to: for as long as the session itself.
  virtual void Checkpoint(const std::string& principal, const std::string& id, Done done) = 0;
  // Cuts the text after `position` tokens, where a checkpoint is: else FAILED_PRECONDITION with the
  // positions that there are. Later checkpoints go.
  virtual void Rewind(const std::string& principal, const std::string& id, int64_t position,
                      Done done) = 0;

  virtual void Export(const std::string& principal, const std::string& id, Exported done) = 0;
  // For a record of the principal's; one of other numerics is taken where `other_numerics` says so,
  // and is not exact.
  virtual std::unique_ptr<SessionTarget> NewTarget(const std::string& principal,
                                                   bool other_numerics) = 0;
  // Of a target that wants room: states that may give way do, and the rest of the record may come.
  // `target` is left alone meanwhile. RESOURCE_EXHAUSTED: nothing more may give way.
  virtual void MakeRoom(const std::string& principal, SessionTarget& target,
                        std::function<void(const absl::Status&)> done) = 0;
  // A new session out of a record that has come, of NewTarget's.
  virtual void Import(const std::string& principal, std::unique_ptr<SessionTarget> target,
                      Done done) = 0;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SESSION_H_
