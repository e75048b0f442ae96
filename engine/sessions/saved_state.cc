#include "engine/sessions/saved_state.h"

#include <algorithm>
#include <utility>

namespace mambad {

bool HostMemory::Take(int64_t bytes) {
  int64_t used = used_.load();
  do {
    if (bytes > limit_ - used) return false;
  } while (!used_.compare_exchange_weak(used, used + bytes));
  return true;
}

bool HostMemory::BeginIncoming(const std::string& principal, int64_t bytes) {
  MutexLock lock(&mutex_);
  const auto it = incoming_.find(principal);
  if (it != incoming_.end() && it->second + bytes > limit_ / 4) return false;
  incoming_[principal] += bytes;
  return true;
}

void HostMemory::EndIncoming(const std::string& principal, int64_t bytes) {
  MutexLock lock(&mutex_);
  const auto it = incoming_.find(principal);
  it->second -= bytes;
  if (it->second == 0) incoming_.erase(it);
}

std::map<std::string, int64_t> HostMemory::incoming() const {
  MutexLock lock(&mutex_);
  return incoming_;
}

std::shared_ptr<SavedState> SavedState::Make(std::shared_ptr<HostMemory> memory,
                                             const ReadPosition& target_read,
                                             const ImageSize& target,
                                             const ReadPosition& draft_read, const ImageSize* draft,
                                             bool taken) {
  const int64_t target_bytes = target.Bytes(target_read.fed, target_read.replay);
  const int64_t draft_bytes =
      draft == nullptr ? 0 : draft->Bytes(draft_read.fed, draft_read.replay);
  if (!taken && !memory->Take(target_bytes + draft_bytes)) return nullptr;
  return std::shared_ptr<SavedState>(
      new SavedState(std::move(memory), target_read, draft_read, target_bytes, draft_bytes));
}

SavedState::SavedState(std::shared_ptr<HostMemory> memory, const ReadPosition& target_read,
                       const ReadPosition& draft_read, int64_t target_bytes, int64_t draft_bytes)
    : target_read(target_read),
      draft_read(draft_read),
      memory_(std::move(memory)),
      target_bytes_(target_bytes),
      draft_bytes_(draft_bytes),
      // Zeroed: inputs before the beginning of a text have no bytes of their own.
      bytes_(new std::byte[std::max<int64_t>(1, target_bytes + draft_bytes)]()) {}

SavedState::~SavedState() { memory_->GiveBack(bytes()); }

}  // namespace mambad
