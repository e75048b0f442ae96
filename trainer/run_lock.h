// One process works in a run's folder.

#ifndef MAMBAD_TRAINER_RUN_LOCK_H_
#define MAMBAD_TRAINER_RUN_LOCK_H_

#include <string>

namespace mambad::trainer {

// Holds the file `folder`/run.lock, which names this process and its machine to people. The system
// lets go of it when the process ends, however that happens: a file that is left behind holds
// nobody up. One thread.
class RunLock {
 public:
  // Throws std::runtime_error: another process, which is named, works in `folder`; or the file
  // cannot be made. On file systems without locks nothing is held.
  explicit RunLock(const std::string& folder);
  // Removes the file.
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  std::string path_;
  int file_ = -1;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_RUN_LOCK_H_
