// Answers that are made and that their callers have not taken: memory that nothing else bounds, and
// that who asks and never reads would have until the stall timeout, as often as he asks.

#ifndef MAMBAD_SERVER_UNREAD_ANSWERS_H_
#define MAMBAD_SERVER_UNREAD_ANSWERS_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "engine/mutex.h"

namespace mambad::server {

// Thread-safe.
class UnreadAnswers {
 public:
  // `most_bytes`: beyond them nothing new is begun. One owner may have half of them.
  explicit UnreadAnswers(int64_t most_bytes) : most_bytes_(most_bytes) {}

  // Whether a call of `owner` (CallRecord::owner) may begin. RESOURCE_EXHAUSTED with
  // google.rpc.RetryInfo.
  absl::Status Check(const std::string& owner) const;
  void Add(const std::string& owner, int64_t bytes);
  void Remove(const std::string& owner, int64_t bytes);  // that were added

 private:
  const int64_t most_bytes_;
  mutable Mutex mutex_;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, int64_t> owners_ ABSL_GUARDED_BY(mutex_);  // that have any
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_UNREAD_ANSWERS_H_
