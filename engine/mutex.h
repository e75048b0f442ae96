// A mutex, its lock and its condition: std's, told to clang's thread-safety analysis, which then
// holds every ABSL_GUARDED_BY member to its mutex. ThreadSanitizer sees through them, as it does
// not through absl::Mutex of a library that was built without it.

#ifndef MAMBAD_ENGINE_MUTEX_H_
#define MAMBAD_ENGINE_MUTEX_H_

#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "engine/steady_time.h"

namespace mambad {

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  friend class Condition;
  std::mutex mutex_;
};

// Holds the mutex for as long as it lives.
class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }

  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

// Waits may end for no reason: ask in a loop for what is waited for.
class Condition {
 public:
  void Wait(Mutex* mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::unique_lock<std::mutex> held(mutex->mutex_, std::adopt_lock);
    condition_.wait(held);
    held.release();
  }
  // `deadline` is steady time (engine/steady_time.h). False when it has come;
  // absl::InfiniteFuture() never does.
  bool WaitUntil(Mutex* mutex, absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const std::chrono::steady_clock::time_point end = ToSteadyClock(deadline);
    if (end == std::chrono::steady_clock::time_point::max()) {
      Wait(mutex);
      return true;
    }
    std::unique_lock<std::mutex> held(mutex->mutex_, std::adopt_lock);
    const bool in_time = condition_.wait_until(held, end) == std::cv_status::no_timeout;
    held.release();
    return in_time;
  }
  void NotifyOne() { condition_.notify_one(); }
  void NotifyAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_MUTEX_H_
