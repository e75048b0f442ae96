#include "engine/sessions/saved_state.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

namespace mambad {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
// Smaller ones the C library keeps by itself.
constexpr int64_t kLargeBlock = 2 * kHugePage;
constexpr size_t kMostSpare = 2;

}  // namespace

HostMemory::Block::Block(int64_t bytes) : bytes_(std::max<int64_t>(1, bytes)) {
  const bool large = bytes_ >= kLargeBlock;
  const int64_t unit = large ? kHugePage : 64;
  bytes_ = (bytes_ + unit - 1) / unit * unit;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(unit, bytes_)));
  if (data_ == nullptr) throw std::bad_alloc();
  if (large) madvise(data_.get(), bytes_, MADV_HUGEPAGE);
}

void HostMemory::Block::Free::operator()(std::byte* data) const { std::free(data); }

HostMemory::Block HostMemory::NewBlock(int64_t bytes) {
  if (bytes >= kLargeBlock) {
    std::vector<Block> others;  // of another size: they go, when nobody waits for it
    MutexLock lock(&mutex_);
    // Hardly larger: what is behind its end is not counted.
    const auto fits = [bytes](const Block& block) {
      return block.bytes() >= bytes && block.bytes() - bytes < kHugePage + bytes / 8;
    };
    const auto found = std::find_if(spare_.begin(), spare_.end(), fits);
    if (found != spare_.end()) {
      Block block = std::move(*found);
      spare_.erase(found);
      return block;
    }
    others.swap(spare_);
  }
  return Block(bytes);
}

void HostMemory::Recycle(Block block) {
  if (block.bytes() < kLargeBlock) return;
  MutexLock lock(&mutex_);
  const bool fits = SpareBytes() + block.bytes() <= limit_ - used();
  if (spare_.size() < kMostSpare && fits) spare_.push_back(std::move(block));
}

int64_t HostMemory::spare_bytes() const {
  MutexLock lock(&mutex_);
  return SpareBytes();
}

int64_t HostMemory::SpareBytes() const {
  int64_t bytes = 0;
  for (const Block& block : spare_) bytes += block.bytes();
  return bytes;
}

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
      block_(memory_->NewBlock(target_bytes + draft_bytes)) {}

SavedState::~SavedState() {
  memory_->GiveBack(bytes());
  memory_->Recycle(std::move(block_));
}

}  // namespace mambad
