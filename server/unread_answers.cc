#include "server/unread_answers.h"

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/status_details.h"

namespace mambad::server {
namespace {

constexpr absl::Duration kRetryAfter = absl::Seconds(1);

}  // namespace

absl::Status UnreadAnswers::Check(const std::string& owner) const {
  MutexLock lock(&mutex_);
  if (bytes_ > most_bytes_) {
    return ExhaustedError(
        absl::StrCat(bytes_, " bytes of answers wait for their readers, at most ", most_bytes_),
        kRetryAfter);
  }
  const auto found = owners_.find(owner);
  if (found == owners_.end() || found->second <= most_bytes_ / 2) return absl::OkStatus();
  return ExhaustedError(
      absl::StrCat(found->second, " bytes of answers wait for this connection to ",
                   "read them, at most half of ", most_bytes_),
      kRetryAfter);
}

void UnreadAnswers::Add(const std::string& owner, int64_t bytes) {
  if (bytes == 0) return;
  MutexLock lock(&mutex_);
  bytes_ += bytes;
  owners_[owner] += bytes;
}

void UnreadAnswers::Remove(const std::string& owner, int64_t bytes) {
  if (bytes == 0) return;
  MutexLock lock(&mutex_);
  bytes_ -= bytes;
  const auto found = owners_.find(owner);
  if ((found->second -= bytes) == 0) owners_.erase(found);
}

}  // namespace mambad::server
