// Text work that waits: whose turn it is, and how much may wait.

#ifndef MAMBAD_SERVER_TEXT_QUEUE_H_
#define MAMBAD_SERVER_TEXT_QUEUE_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace mambad::server {

// The text work of one call. Its call makes it and keeps a share, to give it up with; what it says
// of itself is set before it is handed over.
struct TextJob {
  std::string owner;  // who takes turns with others: CallRecord::owner
  int64_t bytes = 0;  // of the request: what waiting holds in memory, and about what the work costs
  // Once, on a worker's thread. OK: work, and look at `over` now and then. Else only end the call:
  // CANCELLED, nobody waits for it; UNAVAILABLE, the server drains.
  std::function<void(const absl::Status& status)> run;
  std::atomic<bool> over = false;  // the result is not wanted any more
  absl::Time queued;               // steady time; the worker's
};
using TextJobPointer = std::shared_ptr<TextJob>;

// What may wait in one queue. One owner may fill half of it, so that others find room.
struct TextQueueLimits {
  int64_t calls = 0;
  int64_t bytes = 0;  // a single call may have more when nothing else waits
};

// Owners take turns by the bytes that were worked on for them: who had least so far is next, and
// who comes anew begins with the least that any had when last one was taken. Within an owner first
// come, first served. Not thread-safe.
class TextQueue {
 public:
  explicit TextQueue(const TextQueueLimits& limits) : limits_(limits) {}

  // RESOURCE_EXHAUSTED, saying what is full; the job is then not kept.
  absl::Status Add(TextJobPointer job);
  TextJobPointer TakeNext();  // nullptr: none
  // Takes out `job`. False: it is not here.
  bool Remove(const TextJob& job);

  int64_t calls() const { return calls_; }
  int64_t bytes() const { return bytes_; }

 private:
  struct Owner {
    std::deque<TextJobPointer> jobs;
    int64_t bytes = 0;   // of them
    int64_t served = 0;  // bytes
  };
  using Owners = std::map<std::string, Owner>;
  void Forget(Owners::iterator owner, const TextJob& job);

  const TextQueueLimits limits_;
  Owners owners_;  // that have jobs
  int64_t calls_ = 0, bytes_ = 0;
  int64_t least_served_ = 0;  // by the owner whose turn it was last, before that
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_TEXT_QUEUE_H_
