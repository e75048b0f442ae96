#include "server/text_worker.h"

#include <utility>

namespace mambad::server {

TextWorker::TextWorker(int threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
}

TextWorker::~TextWorker() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  news_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

void TextWorker::Run(std::function<void()> task) {
  {
    MutexLock lock(&mutex_);
    tasks_.push_back(std::move(task));
  }
  news_.NotifyOne();
}

void TextWorker::Work() {
  for (;;) {
    std::function<void()> task;
    {
      MutexLock lock(&mutex_);
      while (!stopping_ && tasks_.empty()) news_.Wait(&mutex_);
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace mambad::server
