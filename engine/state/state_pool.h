// One model's per-sequence memory: for every slot the recurrent layers' blocks, and pages of keys
// and values. All of it is allocated at open; acquiring and releasing only moves numbers. Engine
// thread.

#ifndef MAMBAD_ENGINE_STATE_STATE_POOL_H_
#define MAMBAD_ENGINE_STATE_STATE_POOL_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/model/block.h"
#include "engine/state/cache_size.h"
#include "engine/state/image_size.h"
#include "kernels/backend.h"

namespace mambad {

struct StatePoolShape {
  int slots = 0;
  int64_t max_context = 0;  // positions a sequence may have
  int64_t cache_tokens =
      0;  // room for keys and values over all sequences; ignored without attention layers
  int window_rows = 0;         // uncommitted rows of a window at most (kernels/backend.h)
  bool keeps_working = false;  // windows are extended row by row (a draft model)
  kernels::ElementType key_values = kernels::ElementType::kFloat32;
};

class StatePool {
 public:
  StatePool(const std::vector<Block>& blocks, const StatePoolShape& shape,
            kernels::Backend& backend);

  const CacheSize& cache_size() const { return cache_size_; }
  int64_t pages_total() const { return cache_size_.pages; }
  int64_t pages_free() const { return static_cast<int64_t>(free_pages_.size()); }

  // Assigns pages for `positions` positions; the slot's recurrent state is zero, once Upload has
  // seen it, unless it is restored or forked before. With `forked_at` without the pages that a fork
  // after so many positions will share: until then nothing may run the slot. `clean`: all pages
  // that the slot will be given are zeroed, so that nothing of others is in its image. False, and
  // nothing changed, when too few pages are free. The slot must be released.
  bool Acquire(int slot, int64_t positions, int64_t forked_at = 0, bool clean = false);
  // Assigns more pages to an acquired slot, so that it has `positions` positions. False, and
  // nothing changed, when too few are free. Costs what is added, whatever the slot has.
  bool Extend(int slot, int64_t positions);
  // The slot has pages for `positions` positions; always true without attention layers.
  bool Reaches(int slot, int64_t positions) const {
    return cache_size_.PagesFor(positions) <= assigned_[slot];
  }
  bool CanExtend(int slot, int64_t positions) const {
    return cache_size_.PagesFor(positions) - assigned_[slot] <= pages_free();
  }
  // The slot holds its pages no longer; those that no other holds are free.
  void Release(int slot);
  // Makes `to`, already acquired, what `from` is after `positions` positions, of which neither will
  // be written again. Copies the recurrent state and a page begun; full pages are shared, and those
  // that `to` had in their place are free.
  void Fork(int from, int to, int64_t positions);

  // Frees the pages that the slot has beyond those of `positions` positions.
  void Shrink(int slot, int64_t positions);

  // An image is what the pool keeps of a sequence of which a model has read `fed` tokens, the last
  // `replay` of them in replay rows: bytes that depend neither on the slot nor on its pages. Layer
  // by layer: a recurrent one's checkpoint, its last W - 1 inputs before the convolution and its
  // replay rows; an attention layer's pages up to `fed`, keys and values of each.
  const ImageSize& image_size() const { return image_size_; }
  // Writes the slot's image to `image`, which has it after the next Synchronize: every byte of it,
  // whatever was there.
  void Save(int slot, int64_t fed, int replay, std::byte* image);
  // Makes an acquired slot, which has pages for `fed` positions, what the image was saved of.
  // `image` must stay as it is until the next Synchronize.
  void Restore(int slot, int64_t fed, int replay, const std::byte* image);

  // Whether a step folds a slot where `replay` rows wait, of which it reads `feed` tokens that are
  // right and `drafts` that may be wrong. Else its rows can wait behind them. What has read more
  // than one token is folded: rows that wait are run again in every step.
  bool Folds(int replay, int feed, int drafts) const {
    return feed > 1 || replay + feed + drafts > waiting_rows_;
  }

  const kernels::RecurrentState& recurrent(size_t layer) const { return layers_[layer].recurrent; }
  kernels::ElementType key_values_type() const { return shape_.key_values; }
  const kernels::KeyValueState& key_values(size_t layer) const { return layers_[layer].key_values; }
  // Zeroes states and brings pages that were assigned or shared since to the backend: before
  // operations that use them. Then no more may be until the backend has been waited for.
  void Upload();
  // [slots, pages_per_sequence()] in backend memory.
  const int32_t* page_table() const { return device_table_.as<int32_t>(); }
  int pages_per_sequence() const { return pages_per_sequence_; }

  int64_t recurrent_bytes_per_slot() const { return recurrent_floats_ * 4; }
  int64_t bytes_per_page() const { return page_bytes_; }  // in all layers

 private:
  struct Layer {
    kernels::RecurrentState recurrent;
    // Floats of its checkpoint and of an input before the convolution; inputs that the next row
    // reaches back to.
    int64_t state_floats = 0, input_floats = 0, inputs = 0;
    kernels::KeyValueState key_values;
    kernels::Buffer keys, values;
  };

  struct Range {
    int64_t begin = 0, end = 0;
  };

  // Calls visit(slot's bytes or a page's, offset in the image, bytes) for all parts of an image;
  // null: what has none in the slot, inputs before the beginning of a text.
  template <typename Visit>
  void VisitImage(int slot, int64_t fed, int replay, Visit visit) const;
  void MeasureImages();
  static void DescribeRecurrent(const Block& block, Layer* layer);
  void AllocateRecurrent(const std::vector<Block>& blocks);
  void AllocatePages(const std::vector<Block>& blocks);
  float* SlotBlock(int slot) const { return recurrent_.as<float>() + slot * recurrent_floats_; }
  // Pages in the order of positions; kNoPage: to be shared later.
  const int32_t* PagesOf(int slot) const {
    return table_.as<int32_t>() + int64_t{slot} * pages_per_sequence_;
  }
  int32_t* PagesOf(int slot) { return table_.as<int32_t>() + int64_t{slot} * pages_per_sequence_; }
  void ZeroWhereStale(int slot);
  void Drop(int32_t page);  // by one holder
  void ClearPage(int32_t page);
  void CopyPage(int32_t from, int32_t to);
  void Change(int slot, int64_t begin, int64_t end);  // of its pages

  kernels::Backend& backend_;
  const StatePoolShape shape_;
  std::vector<Layer> layers_;
  int waiting_rows_ = 0;  // that all recurrent layers have room for; 0: one of them always folds
  kernels::Buffer recurrent_;  // [slots][recurrent layers' blocks]: a slot is one stretch
  CacheSize cache_size_;
  ImageSize image_size_;
  int pages_per_sequence_ = 1;
  int64_t recurrent_floats_ = 0, page_bytes_ = 0;
  std::vector<int32_t> free_pages_;
  std::vector<int32_t> holders_;   // [pages], slots that have it
  std::vector<uint8_t> clean_;     // [slots], its pages are zeroed before it has them
  std::vector<uint8_t> stale_;     // [slots], acquired, and its state still that of who had it
  std::vector<int32_t> assigned_;  // [slots], pages in use, those to be shared later counted
  kernels::Buffer table_;          // [slots, pages_per_sequence] int32, the host's copy
  kernels::Buffer device_table_;
  std::vector<Range> changed_;  // [slots], what the backend's copy does not have yet
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_STATE_STATE_POOL_H_
