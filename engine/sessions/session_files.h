// Sessions in a directory, one file each (session_record.h), named ID.session. A file is written
// whole under another name, brought to the disk and then renamed, so that under its name there is
// always the last one that was acknowledged, or none. One process uses a directory at a time.

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
#include "engine/sessions/session_format.h"
#include "engine/sessions/session_record.h"

namespace mambad {

// Any thread. What is asked for is done one after another on a thread of its own, which also calls
// what is to be told.
class SessionFiles {
 public:
  using Written = std::function<void(const absl::Status&)>;
  using WasRead = std::function<void(absl::StatusOr<std::shared_ptr<const SessionRecord>>)>;

  struct Found {
    std::shared_ptr<const SessionRecord> record;  // without its state
    absl::Duration age;                           // since it was written
  };

  // Opens the directory, which is made where it is not there, and reads the heads of all sessions
  // of this engine. What was left half written is removed, what cannot be read or is another's is
  // left alone: a line of `warnings` for each. Errors: the directory cannot be used.
  static absl::StatusOr<std::unique_ptr<SessionFiles>> Open(
      const std::string& directory, std::shared_ptr<const SessionFormat> format,
      std::shared_ptr<HostMemory> memory, std::vector<Found>* found,
      std::vector<std::string>* warnings);
  // What was asked for is done first.
  ~SessionFiles();

  // OK: it is on the disk, and is there after any end of the process. RESOURCE_EXHAUSTED: the disk
  // is full; INTERNAL: what else the system says. Then the file that was there stays.
  void Write(std::shared_ptr<const SessionRecord> record, Written done);
  void Read(const std::string& id, WasRead done);
  void Remove(const std::string& id);

 private:
  SessionFiles(std::string directory, int lock, std::shared_ptr<const SessionFormat> format,
               std::shared_ptr<HostMemory> memory);
  void Run();
  void Ask(std::function<void()> job);
  std::string PathOf(const std::string& id) const;
  absl::Status WriteNow(const std::shared_ptr<const SessionRecord>& record);
  absl::StatusOr<std::shared_ptr<const SessionRecord>> ReadNow(
      const std::string& path, const SessionRecordReader::Rules& rules) const;
  void Scan(std::vector<Found>* found, std::vector<std::string>* warnings);

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
