// Private to the recurrent mixers: one sequence's rows of a call in the order in which the
// recurrence runs them, cut into chunks of bounded size.

#ifndef MAMBAD_KERNELS_CPU_RECURRENCE_H_
#define MAMBAD_KERNELS_CPU_RECURRENCE_H_

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/memory.h"

namespace mambad::kernels {

// Rows that pass through the registers' copy of a state between its load and its store. Uncommitted
// rows join the last chunk.
inline constexpr int kChunkRows = 32;
inline constexpr int kMaxChunkRows = kChunkRows + kMaxWindowRows;

inline void CheckWindowRows(int window_rows) {
  if (window_rows < 0 || window_rows > kMaxWindowRows) Fail("slot: window rows", {window_rows});
}

// Row i of the recurrence is replay row i for i < replay, else row row_begin + i - replay of the
// call.
struct SequenceRows {
  float* slot = nullptr;
  RecurrentSlotLayout layout;
  int64_t row_begin = 0;
  int replay = 0;  // replay rows to run first
  int rows = 0;    // rows of the call
  int committed =
      0;  // rows of the recurrence, replay counted, after which the checkpoint is stored
  int window_start = 0;  // replay row that takes the first uncommitted row
  bool keeps_working = false;

  int total() const { return replay + rows; }
  float* checkpoint() const { return slot + layout.checkpoint; }
  float* working() const { return slot + layout.working; }
  float* replay_row(int i) const { return slot + layout.replay + i * layout.replay_row; }
  // Row of the call for row i of the recurrence, i >= replay.
  int64_t call_row(int i) const { return row_begin + i - replay; }
  // Where the inputs of uncommitted row i of the recurrence are kept.
  float* kept_row(int i) const { return replay_row(window_start + i - committed); }
};

inline SequenceRows RowsOfSequence(const Batch& batch, const RecurrentState& state, int s) {
  SequenceRows rows;
  rows.slot = state.slot(batch.slot[s]);
  rows.layout = state.layout;
  rows.row_begin = batch.row_begin[s];
  rows.rows = batch.row_begin[s + 1] - batch.row_begin[s];
  rows.window_start = batch.window_start[s];
  const int commit = rows.window_start > 0 ? 0 : batch.commit[s];
  rows.replay = rows.window_start > 0 ? 0 : batch.replay[s];
  rows.committed = rows.replay + commit;
  rows.keeps_working = batch.keeps_working && rows.rows > commit;
  const int kept = rows.rows - commit, most = state.layout.window_rows;
  const bool fits = kept >= 0 && kept + rows.window_start <= most && rows.replay <= most;
  const bool has_working =
      state.layout.working >= 0 || (!rows.keeps_working && rows.window_start == 0);
  if (!fits || !has_working || commit < 0 || rows.replay < 0) {
    Fail("window of a sequence: rows, commit, replay, window_start, working, window rows",
         {rows.rows, commit, batch.replay[s], rows.window_start, state.layout.working, most});
  }
  return rows;
}

// Rows [begin, end) of the recurrence between one load and one store of the state; the store comes
// after `stored`.
struct RecurrenceChunk {
  int begin = 0, stored = 0, end = 0;

  bool stores_checkpoint() const { return stored > begin; }
  int rows() const { return end - begin; }
};

inline RecurrenceChunk NextChunk(const SequenceRows& rows, int begin) {
  const bool more = rows.committed - begin > kChunkRows;
  const int end = more ? begin + kChunkRows : rows.total();
  return {begin, std::min(end, std::max(begin, rows.committed)), end};
}

// What the first chunk of a sequence loads; later ones load the checkpoint.
inline const float* LoadedState(const SequenceRows& rows, const RecurrenceChunk& chunk) {
  return rows.window_start > 0 && chunk.begin == 0 ? rows.working() : rows.checkpoint();
}

// Copies uncommitted rows of B [R, width] to their replay rows at `offset`. Runs after the scan:
// every channel block reads the replay rows' B.
inline void KeepRows(const Batch& batch, const RecurrentState& state, const RowsView& b,
                     int64_t width, int64_t offset) {
  for (int s = 0; s < batch.sequences; ++s) {
    const SequenceRows rows = RowsOfSequence(batch, state, s);
    for (int i = rows.committed; i < rows.total(); ++i) {
      const float* from = b.row(rows.call_row(i));
      std::copy(from, from + width, rows.kept_row(i) + offset);
    }
  }
}

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_RECURRENCE_H_
