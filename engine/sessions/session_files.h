// Sessions in a directory (session_record.h): each in a file, ID.session, and each of its
// checkpoints in one, ID.POSITION.checkpoint, which is written once, however often the session is.
// A file is written whole under another name, brought to the disk and then renamed, so that under
// its name there is always the last one that was acknowledged, or none. Between the files of a
// session the process may end: a checkpoint counts while its text is how the session's begins. One
// process uses a directory at a time.

#ifndef MAMBAD_ENGINE_SESSIONS_SESSION_FILES_H_
#define MAMBAD_ENGINE_SESSIONS_SESSION_FILES_H_

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "engine/sessions/kept_session.h"
#include "engine/sessions/session_format.h"
#include "engine/sessions/session_record.h"

namespace mambad {

// Any thread. What is asked for is done one after another on a thread of its own, which also calls
// what is to be told.
class SessionFiles {
 public:
  using Written = std::function<void(const absl::Status&)>;
  using WasRead = std::function<void(absl::StatusOr<std::shared_ptr<const SessionRecord>>)>;

  static constexpr int64_t kItself = KeptSession::kItself;

  struct Found {
    struct Checkpoint {
      int64_t position = 0;
      int64_t state_bytes = 0;
    };
    std::shared_ptr<const SessionRecord> record;  // without its state
    absl::Duration age;                           // since it was written
    std::vector<Checkpoint> checkpoints;          // by position
  };

  // Opens the directory, which is made where it is not there, and reads the heads of all sessions
  // and checkpoints of this engine. What is half written or damaged, and a checkpoint of no
  // session, is removed; what cannot be read or is another's is left alone: a line of `warnings`
  // for each. Errors: the directory cannot be used.
  static absl::StatusOr<std::unique_ptr<SessionFiles>> Open(
      const std::string& directory, std::shared_ptr<const SessionFormat> format,
      std::shared_ptr<HostMemory> memory, std::vector<Found>* found,
      std::vector<std::string>* warnings);
  // What was asked for is done first.
  ~SessionFiles();

  // OK: it is on the disk, and is there after any end of the process. RESOURCE_EXHAUSTED: the disk
  // is full; INTERNAL: what else the system says. Then the file that was there stays.
  // `at`: kItself, or a checkpoint's position, whose record has neither id nor principal.
  void Write(const std::string& id, int64_t at, std::shared_ptr<const SessionRecord> record,
             Written done);
  void Read(const std::string& id, int64_t at, WasRead done);
  void Remove(const std::string& id, int64_t at);
  // When all that was asked for before is done.
  void Tell(std::function<void()> told);
  // Checkpoints of a session become another's, too. Files are shared: nothing is written anew.
  void Share(const std::string& from, const std::string& to, std::vector<int64_t> positions,
             Written done);

 private:
  SessionFiles(std::string directory, int lock, std::shared_ptr<const SessionFormat> format,
               std::shared_ptr<HostMemory> memory);
  void Run();
  void Ask(std::function<void()> job);
  std::string PathOf(const std::string& id, int64_t at) const;
  absl::Status WriteNow(const std::string& path,
                        const std::shared_ptr<const SessionRecord>& record) const;
  absl::Status ShareNow(const std::string& from, const std::string& to,
                        const std::vector<int64_t>& positions) const;
  absl::StatusOr<std::shared_ptr<const SessionRecord>> ReadNow(
      const std::string& path, const SessionRecordReader::Rules& rules) const;
  void Scan(std::vector<Found>* found, std::vector<std::string>* warnings) const;
  void ScanSession(const std::string& path, std::vector<Found>* found,
                   std::vector<std::string>* warnings) const;
  void ScanCheckpoint(const std::string& name, std::vector<Found>* found,
                      std::vector<std::string>* warnings) const;

  const std::string directory_;
  const int lock_;  // descriptor that holds it for this process
  const std::shared_ptr<const SessionFormat> format_;
  const std::shared_ptr<HostMemory> memory_;

  Mutex mutex_;
  Condition news_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;  // last: starts when all else is there
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SESSIONS_SESSION_FILES_H_
