// A step's rows, written down on the host, and their way to a backend.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_STEP_ROWS_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_STEP_ROWS_H_

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "tests/kernels/backend/device_array.h"

namespace mambad::kernels {

// What Batch says, sequence by sequence.
struct StepRows {
  std::vector<int32_t> row_begin{0}, slot, position, replay, fold, keep_from, keep_at, resume,
      tokens, logit_rows;
  bool keeps_working = false;

  int sequences() const { return static_cast<int>(slot.size()); }
  int rows() const { return static_cast<int>(tokens.size()); }

  // A sequence whose rows are all right: a prompt chunk.
  void Add(int the_slot, int at, const std::vector<int32_t>& ids, int replayed = 0) {
    Add(the_slot, at, ids, replayed, /*folds=*/true, static_cast<int>(ids.size()), 0);
  }
  void Add(int the_slot, int at, const std::vector<int32_t>& ids, int replayed, bool folds,
           int kept_from, int kept_at, bool resumes = false) {
    slot.push_back(the_slot);
    position.push_back(at);
    replay.push_back(replayed);
    fold.push_back(folds);
    keep_from.push_back(kept_from);
    keep_at.push_back(kept_at);
    resume.push_back(resumes);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    row_begin.push_back(rows());
  }
};

// Backend memory for the arrays of one step at a time.
class BatchArrays {
 public:
  explicit BatchArrays(Backend& backend) : backend_(backend), memory_(backend, 1) {}

  // Valid until the next call. `pages`: backend memory.
  Batch Write(const StepRows& rows, const int32_t* pages = nullptr, int pages_per_sequence = 0) {
    return Write(rows, {}, pages, pages_per_sequence);
  }
  // Of a decode round: with so much more of each than there is.
  struct Bounds {
    int sequences = 0, rows = 0, logit_rows = 0;
  };
  Batch Write(const StepRows& rows, const Bounds& more, const int32_t* pages = nullptr,
              int pages_per_sequence = 0) {
    std::vector<int32_t> all;
    const auto place = [&](const std::vector<int32_t>& values, int count, int32_t nothing) {
      const int64_t at = static_cast<int64_t>(all.size());
      all.insert(all.end(), values.begin(), values.end());
      all.insert(all.end(), count, nothing);
      return at;
    };
    const auto each = [&](const std::vector<int32_t>& values) {
      return place(values, more.sequences, 0);
    };
    const std::pair<const int32_t * Batch::*, int64_t> parts[] = {
        {&Batch::row_begin, place(rows.row_begin, more.sequences, rows.rows())},
        {&Batch::slot, place(rows.slot, more.sequences, -1)},
        {&Batch::position, each(rows.position)},
        {&Batch::replay, each(rows.replay)},
        {&Batch::fold, each(rows.fold)},
        {&Batch::keep_from, each(rows.keep_from)},
        {&Batch::keep_at, each(rows.keep_at)},
        {&Batch::resume, each(rows.resume)},
        {&Batch::tokens, place(rows.tokens, more.rows, 0)},
        {&Batch::logit_rows, place(rows.logit_rows, more.logit_rows, -1)}};
    const int64_t count = static_cast<int64_t>(all.size());
    if (memory_.size() < count) memory_ = DeviceArray<int32_t>(backend_, 2 * count);
    memory_.Write(all);
    Batch batch;
    for (const auto& [member, at] : parts) batch.*member = memory_.data() + at;
    batch.sequences = rows.sequences() + more.sequences;
    batch.rows = rows.rows() + more.rows;
    batch.logit_count = static_cast<int>(rows.logit_rows.size()) + more.logit_rows;
    batch.pages = pages;
    batch.pages_per_sequence = pages_per_sequence;
    for (int s = 0; s < rows.sequences(); ++s) {
      const int count = rows.row_begin[s + 1] - rows.row_begin[s];
      batch.max_position = std::max<int64_t>(batch.max_position, rows.position[s] + count - 1);
    }
    batch.keeps_working = rows.keeps_working;
    return batch;
  }

 private:
  Backend& backend_;
  DeviceArray<int32_t> memory_;
};

// Has the backend do what `describe` calls, as one round of prompts, and waits for it.
template <typename Describe>
void RunRound(Backend& backend, const Describe& describe) {
  ASSERT_TRUE(backend.BeginRound({}));
  describe();
  backend.EndRound();
  backend.Synchronize();
}

// The same as a decode round: `describe` is not called where the backend knows `shape`, of which
// all that it calls must follow.
template <typename Describe>
void RunDecodeRound(Backend& backend, RoundShape shape, const Describe& describe) {
  shape.kind = RoundKind::kDecode;
  if (backend.BeginRound(shape)) describe();
  backend.EndRound();
  backend.Synchronize();
}

// Room for `rows` rows of `width` numbers, as many rows of logits, and layers no wider than that.
inline WorkspaceShape SmallWorkspace(int rows, int64_t width, int64_t vocabulary) {
  WorkspaceShape shape;
  shape.max_rows = shape.max_logit_rows = shape.max_sequences = rows;
  shape.width = shape.max_projection = shape.max_inner = shape.max_selection = width;
  shape.vocabulary = vocabulary;
  shape.max_context = 256;
  return shape;
}

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_STEP_ROWS_H_
