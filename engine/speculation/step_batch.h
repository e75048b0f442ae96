// The arrays of one forward pass, in a staging area: what kernels::Batch points at. Filled sequence
// by sequence.

#ifndef MAMBAD_ENGINE_SPECULATION_STEP_BATCH_H_
#define MAMBAD_ENGINE_SPECULATION_STEP_BATCH_H_

#include <algorithm>
#include <cstdint>
#include <optional>

#include "engine/speculation/staging_area.h"
#include "engine/state/state_pool.h"
#include "kernels/backend.h"

namespace mambad {

class StepBatch {
 public:
  using Array = StagingArea::Array<int32_t>;

  // Reserves the arrays in `area`. `this` must not move before the area is allocated.
  void Reserve(StagingArea& area, int max_sequences, int max_rows, int max_logit_rows) {
    area.Add(&row_begin_, max_sequences + 1);
    for (Array* array : {&slot_, &position_, &replay_, &fold_, &keep_from_, &keep_at_, &resume_})
      area.Add(array, max_sequences);
    area.Add(&tokens_, max_rows);
    area.Add(&logit_rows_, max_logit_rows);
  }

  void Clear() {
    sequences_ = rows_ = logit_count_ = 0;
    max_position_ = 0;
    bounds_.reset();
  }

  // A sequence's part of the pass; see kernels::Batch.
  struct Window {
    int slot = 0;
    int64_t position = 0;  // of the first row
    int rows = 0;
    int replay = 0;
    bool fold = true;
    int keep_from = 0, keep_at = 0;
    bool resume = false;
  };
  // Appends a sequence; returns its first row. Its tokens are written through token(row).
  int AddSequence(const Window& window) {
    const int s = sequences_++;
    const int first = rows_;
    row_begin_.host[s] = first;
    slot_.host[s] = window.slot;
    position_.host[s] = static_cast<int32_t>(window.position);
    replay_.host[s] = window.replay;
    fold_.host[s] = window.fold;
    keep_from_.host[s] = window.keep_from;
    keep_at_.host[s] = window.keep_at;
    resume_.host[s] = window.resume;
    rows_ += window.rows;
    row_begin_.host[sequences_] = rows_;
    max_position_ = std::max(max_position_, window.position + window.rows - 1);
    return first;
  }
  int32_t& token(int row) { return tokens_.host[row]; }
  // Asks for a row's logits; returns their row in the workspace's logits.
  int AddLogits(int row) {
    logit_rows_.host[logit_count_] = row;
    return logit_count_++;
  }

  // Upper bounds, for a pass of a decode round.
  struct Bounds {
    int sequences = 0, rows = 0, logits = 0;
    int64_t context = 0;  // of positions
  };
  // The view says these instead of what there is; all sequences and logits must be there already.
  void Bound(const Bounds& bounds) {
    bounds_ = bounds;
    for (int s = sequences_; s < bounds.sequences; ++s) {
      slot_.host[s] = -1;
      for (Array* array : {&position_, &replay_, &fold_, &keep_from_, &keep_at_, &resume_})
        array->host[s] = 0;
    }
    std::fill(row_begin_.host + sequences_, row_begin_.host + bounds.sequences + 1, rows_);
    std::fill(logit_rows_.host + logit_count_, logit_rows_.host + bounds.logits, -1);
  }

  // What there is.
  int sequences() const { return sequences_; }
  int rows() const { return rows_; }
  int logit_count() const { return logit_count_; }
  int64_t max_position() const { return max_position_; }
  int32_t* device_tokens() const { return tokens_.device; }

  kernels::Batch View(const StatePool& state, bool keeps_working) const {
    const Bounds bounds =
        bounds_.value_or(Bounds{sequences_, rows_, logit_count_, max_position_ + 1});
    kernels::Batch batch;
    batch.sequences = bounds.sequences;
    batch.rows = bounds.rows;
    batch.row_begin = row_begin_.device;
    batch.slot = slot_.device;
    batch.position = position_.device;
    batch.replay = replay_.device;
    batch.fold = fold_.device;
    batch.keep_from = keep_from_.device;
    batch.keep_at = keep_at_.device;
    batch.resume = resume_.device;
    batch.tokens = tokens_.device;
    batch.pages = state.page_table();
    batch.pages_per_sequence = state.pages_per_sequence();
    batch.logit_rows = logit_rows_.device;
    batch.logit_count = bounds.logits;
    batch.max_position = bounds.context - 1;
    batch.keeps_working = keeps_working;
    return batch;
  }

 private:
  Array row_begin_, slot_, position_, replay_, fold_, keep_from_, keep_at_, resume_, tokens_,
      logit_rows_;
  int sequences_ = 0, rows_ = 0, logit_count_ = 0;
  int64_t max_position_ = 0;
  std::optional<Bounds> bounds_;  // none: what there is
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SPECULATION_STEP_BATCH_H_
