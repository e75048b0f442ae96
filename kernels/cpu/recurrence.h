// Private to the recurrent mixers: one sequence's rows of a call in the order in which the
// recurrence runs them, cut into chunks of bounded size.

#ifndef MAMBAD_KERNELS_CPU_RECURRENCE_H_
#define MAMBAD_KERNELS_CPU_RECURRENCE_H_

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/memory.h"

namespace mambad::kernels {

// Rows that pass through the registers' copy of a state between its load and its store. Rows that
// are not stored join the last chunk, or, where nothing is stored, are the only one.
inline constexpr int kChunkRows = 32;
inline constexpr int kMaxReplayRows = 32;
inline constexpr int kMaxChunkRows = kChunkRows + kMaxWindowRows;
static_assert(kMaxReplayRows <= kMaxChunkRows, "a call that stores nothing keeps all its rows");

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
  int stored = 0;  // rows of the recurrence after which the checkpoint is stored; 0: it stays
  int kept = 0;    // the first row of the recurrence that is kept
  int keep_at = 0;
  bool resumes = false, stores_working = false;

  int total() const { return replay + rows; }
  float* checkpoint() const { return slot + layout.checkpoint; }
  float* working() const { return slot + layout.working; }
  float* replay_row(int i) const { return slot + layout.replay + i * layout.replay_row; }
  // Row of the call for row i of the recurrence, i >= replay.
  int64_t call_row(int i) const { return row_begin + i - replay; }
  // Where the inputs of row i of the recurrence are kept, i >= kept.
  float* kept_row(int i) const { return replay_row(keep_at + i - kept); }
};

inline SequenceRows RowsOfSequence(const Batch& batch, const RecurrentState& state, int s) {
  const RecurrentSlotLayout& layout = state.layout;
  const bool fold = batch.fold[s] != 0;
  const int keep_from = batch.keep_from[s];
  SequenceRows rows;
  rows.slot = state.slot(batch.slot[s]);
  rows.layout = layout;
  rows.row_begin = batch.row_begin[s];
  rows.replay = batch.replay[s];
  rows.rows = batch.row_begin[s + 1] - batch.row_begin[s];
  rows.kept = rows.replay + keep_from;
  rows.stored = fold ? rows.kept : 0;
  rows.keep_at = batch.keep_at[s];
  rows.resumes = batch.resume[s] != 0;
  rows.stores_working = batch.keeps_working && rows.rows > keep_from;
  const int keeps = rows.rows - keep_from;
  const bool whole = fold ? !rows.resumes && keep_from >= 0 && keeps <= layout.window_rows
                          : keep_from == 0 && rows.keep_at >= rows.replay;
  const bool fits = keeps >= 0 && rows.keep_at >= 0 && rows.keep_at + keeps <= layout.replay_rows;
  const bool has_replay =
      rows.replay >= 0 && rows.replay <= (rows.resumes ? 0 : layout.replay_rows);
  const bool has_working = layout.working >= 0 || (!rows.resumes && !rows.stores_working);
  if (!whole || !fits || !has_replay || !has_working) {
    Fail(
        "window of a sequence: rows, replay, fold, keep_from, keep_at, resume, replay rows, "
        "working",
        {rows.rows, rows.replay, batch.fold[s], keep_from, rows.keep_at, batch.resume[s],
         layout.replay_rows, layout.working});
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
  const bool more = rows.stored - begin > kChunkRows;
  const int end = more ? begin + kChunkRows : rows.total();
  return {begin, std::min(end, std::max(begin, rows.stored)), end};
}

inline const float* LoadedState(const SequenceRows& rows) {
  return rows.resumes ? rows.working() : rows.checkpoint();
}

// Copies the kept rows of B [R, width] to their replay rows at `offset`. Runs after the scan:
// every channel block reads the replay rows' B.
inline void KeepRows(const Batch& batch, const RecurrentState& state, const RowsView& b,
                     int64_t width, int64_t offset) {
  for (int s = 0; s < batch.sequences; ++s) {
    const SequenceRows rows = RowsOfSequence(batch, state, s);
    for (int i = rows.kept; i < rows.total(); ++i) {
      const float* from = b.row(rows.call_row(i));
      std::copy(from, from + width, rows.kept_row(i) + offset);
    }
  }
}

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_RECURRENCE_H_
