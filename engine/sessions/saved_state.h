// The models' state of a text in host memory: made once, then shared by all that go on from it
// (sessions, forks, checkpoints, a file being written), and counted for as long as one of them has
// it.

#ifndef MAMBAD_ENGINE_SESSIONS_SAVED_STATE_H_
#define MAMBAD_ENGINE_SESSIONS_SAVED_STATE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/types/span.h"
#include "engine/mutex.h"
#include "engine/read_position.h"
#include "engine/state/image_size.h"

namespace mambad {

// Bytes that saved states may take. Any thread.
class HostMemory {
 public:
  explicit HostMemory(int64_t limit) : limit_(limit) {}

  int64_t limit() const { return limit_; }
  int64_t used() const { return used_.load(); }
  // False, and nothing taken: there is no room for so many.
  bool Take(int64_t bytes);
  void GiveBack(int64_t bytes) { used_ -= bytes; }

  // Of what is used, states that are still on their way in, by whose they are. Nobody can be made
  // to give these up: whoever has one may have others up to a quarter of the limit. False: no more.
  bool BeginIncoming(const std::string& principal, int64_t bytes);
  void EndIncoming(const std::string& principal, int64_t bytes);
  std::map<std::string, int64_t> incoming() const;

  // Memory of one state, on huge pages where it is large and the system gives them.
  class Block {
   public:
    explicit Block(int64_t bytes);

    std::byte* data() const { return data_.get(); }
    int64_t bytes() const { return bytes_; }

   private:
    struct Free {
      void operator()(std::byte* data) const;
    };
    std::unique_ptr<std::byte, Free> data_;
    int64_t bytes_ = 0;
  };
  // For so many bytes, which were taken; what stands in it is anybody's. Large blocks that came
  // back are given again, as a new one must first be found and zeroed by the system, which takes
  // longer than to write it.
  Block NewBlock(int64_t bytes);
  // Of bytes that were given back. It stays, with at most one other, while there is room for it.
  void Recycle(Block block);
  int64_t spare_bytes() const;

 private:
  int64_t SpareBytes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t limit_;
  mutable Mutex mutex_;
  std::map<std::string, int64_t> incoming_ ABSL_GUARDED_BY(mutex_);
  std::vector<Block> spare_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int64_t> used_{0};
};

class SavedState {
 public:
  // Of a text of which the models have read so far; `draft`: null without a draft model, or where
  // only the target's state is wanted. Null: there is no room. `taken`: what it takes was taken of
  // `memory` before.
  static std::shared_ptr<SavedState> Make(std::shared_ptr<HostMemory> memory,
                                          const ReadPosition& target_read, const ImageSize& target,
                                          const ReadPosition& draft_read, const ImageSize* draft,
                                          bool taken = false);
  ~SavedState();
  SavedState(const SavedState&) = delete;
  SavedState& operator=(const SavedState&) = delete;

  const ReadPosition target_read, draft_read;
  // Images (engine/state/state_pool.h); the draft's is empty where there is none. Written by who
  // made it, every byte, before it is shared.
  absl::Span<std::byte> target() { return {block_.data(), size_t(target_bytes_)}; }
  absl::Span<std::byte> draft() { return {block_.data() + target_bytes_, size_t(draft_bytes_)}; }
  absl::Span<const std::byte> target() const { return {block_.data(), size_t(target_bytes_)}; }
  absl::Span<const std::byte> draft() const {
    return {block_.data() + target_bytes_, size_t(draft_bytes_)};
  }
  // Both, the target's first.
  absl::Span<const std::byte> images() const { return {block_.data(), size_t(bytes())}; }
  int64_t bytes() const { return target_bytes_ + draft_bytes_; }

 private:
  SavedState(std::shared_ptr<HostMemory> memory, const ReadPosition& target_read,
             const ReadPosition& draft_read, int64_t target_bytes, int64_t draft_bytes);

  const std::shared_ptr<HostMemory> memory_;
  const int64_t target_bytes_, draft_bytes_;
  HostMemory::Block block_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SESSIONS_SAVED_STATE_H_
