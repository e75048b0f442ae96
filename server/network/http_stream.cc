#include "server/network/http_stream.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

namespace mambad::server {

HttpStream::HttpStream(size_t most_unread_bytes)
    : most_unread_bytes_(most_unread_bytes), news_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

bool HttpStream::Write(absl::string_view text) {
  MutexLock lock(&mutex_);
  if (is_abandoned_ || ended_ || unread_.size() + text.size() > most_unread_bytes_) return false;
  unread_.append(text.data(), text.size());
  Tell();
  return true;
}

void HttpStream::End() {
  MutexLock lock(&mutex_);
  ended_ = true;
  abandoned_ = nullptr;
  Tell();
}

void HttpStream::OnAbandoned(std::function<void()> abandoned) {
  {
    MutexLock lock(&mutex_);
    if (ended_) return;
    if (!is_abandoned_) {
      abandoned_ = std::move(abandoned);
      return;
    }
  }
  abandoned();
}

std::string HttpStream::Take(bool* ended) {
  uint64_t count = 0;
  MutexLock lock(&mutex_);
  // Under the lock, so that no news are forgotten that were told after this look.
  [[maybe_unused]] const ssize_t none_is_fine = read(news_.number(), &count, sizeof(count));
  *ended = ended_;
  return std::exchange(unread_, "");
}

void HttpStream::Abandon() {
  std::function<void()> abandoned;
  {
    MutexLock lock(&mutex_);
    is_abandoned_ = true;
    unread_.clear();
    abandoned = std::exchange(abandoned_, nullptr);
  }
  if (abandoned) abandoned();
}

// The counter is far from full: the write does not fail.
void HttpStream::Tell() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(news_.number(), &one, sizeof(one));
}

}  // namespace mambad::server
