// Threads that tokenize and render chat templates, so that the network's threads never compute.

#ifndef MAMBAD_SERVER_TEXT_WORKER_H_
#define MAMBAD_SERVER_TEXT_WORKER_H_

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "engine/mutex.h"

namespace mambad::server {

// Thread-safe. Tasks run in the order given, as many at a time as there are threads. The queue is
// bounded by the number of calls that the network admits, each with one task.
class TextWorker {
 public:
  explicit TextWorker(int threads);
  ~TextWorker();  // runs what is queued, then joins

  TextWorker(const TextWorker&) = delete;
  TextWorker& operator=(const TextWorker&) = delete;

  void Run(std::function<void()> task);  // from any thread; returns at once

 private:
  void Work();

  Mutex mutex_;
  Condition news_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_TEXT_WORKER_H_
