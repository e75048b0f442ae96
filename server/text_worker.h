// Threads that tokenize and render chat templates, so that the network's threads never compute.

#ifndef MAMBAD_SERVER_TEXT_WORKER_H_
#define MAMBAD_SERVER_TEXT_WORKER_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

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

  std::mutex mutex_;
  std::condition_variable news_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_TEXT_WORKER_H_
