// Threads that tokenize and render chat templates, so that the network's threads never compute.
//
// Two queues, each with threads of its own, so that short texts never wait for long ones:
//   short  up to kShortText bytes: `threads` threads
//   long   beyond: one thread, which helps with the short ones when it has nothing to do
// A call that is over is taken out at once; work that has begun is told so and may end early.

#ifndef MAMBAD_SERVER_TEXT_WORKER_H_
#define MAMBAD_SERVER_TEXT_WORKER_H_

#include <deque>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "server/text_queue.h"

namespace mambad::server {

struct TextWorkerOptions {
  int threads = 1;
  TextQueueLimits short_texts, long_texts;
};

struct TextLoad {
  int waiting = 0;
  int64_t waiting_bytes = 0;
  // How long a short text would wait.
  absl::Duration wait;
};

// Thread-safe.
class TextWorker {
 public:
  static constexpr int64_t kShortText = 64 << 10;

  // `waited` is told how long each job waited before its work began; from any worker's thread.
  TextWorker(const TextWorkerOptions& options, std::function<void(absl::Duration)> waited);
  ~TextWorker();  // drains without patience, then joins

  TextWorker(const TextWorker&) = delete;
  TextWorker& operator=(const TextWorker&) = delete;

  // From any thread; returns at once. OK: job->run is called once, later, on a worker's thread.
  // RESOURCE_EXHAUSTED with google.rpc.RetryInfo when the queue is full, UNAVAILABLE while
  // draining: job->run is not called, and let go of.
  absl::Status Submit(const TextJobPointer& job);

  // From any thread, before, after or during its work: nobody wants the result.
  void Cancel(const TextJobPointer& job);

  // Refuses new jobs from now on; returns when none is left. At `deadline` (steady time) those that
  // wait are ended with UNAVAILABLE and those at work are told that they are over.
  void Drain(absl::Time deadline);

  TextLoad Load() const;

  // From any thread: a request of so many bytes came, whatever becomes of it. What large ones leave
  // to the allocator is given back to the system a little later.
  void NoteRequest(int64_t bytes);

 private:
  struct Lane {
    Lane(const TextQueueLimits& limits, int threads) : queue(limits), threads(threads) {}
    // Until all threads together have worked on so many bytes.
    double SecondsFor(int64_t more_bytes) const;
    // When one that was refused should come back. Each that is gets a place of its own.
    absl::Duration RetryDelay(const TextJob& job, absl::Time now);

    TextQueue queue;
    const int threads;
    // Of finished work, the older the less: what the pace is measured by.
    double seconds = 0, bytes = 0;
    absl::Time promised = absl::InfinitePast();  // the last place given away
  };

  absl::Status Enqueue(const TextJobPointer& job);
  void Work(bool takes_long);
  // What this thread is to do next; nullptr: nothing.
  TextJobPointer Take(bool takes_long, absl::Status* status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WaitForNews(bool takes_long) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Empty() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Lane& LaneOf(const TextJob& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return job.bytes <= kShortText ? short_ : long_;
  }

  const TextWorkerOptions options_;
  const std::function<void(absl::Duration)> waited_;
  mutable Mutex mutex_;
  Condition news_, emptied_;
  Lane short_ ABSL_GUARDED_BY(mutex_), long_ ABSL_GUARDED_BY(mutex_);
  // Taken out of the queues without having been worked on: served first.
  std::deque<std::pair<TextJobPointer, absl::Status>> ended_ ABSL_GUARDED_BY(mutex_);
  std::vector<TextJobPointer> running_ ABSL_GUARDED_BY(mutex_);
  // When memory of large work is to be given back to the system.
  absl::Time give_back_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_TEXT_WORKER_H_
