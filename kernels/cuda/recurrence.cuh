// Private to the recurrent mixers: one sequence's rows of a call in the order in which the
// recurrence runs them, and the slot's parts.

#ifndef MAMBAD_KERNELS_CUDA_RECURRENCE_CUH_
#define MAMBAD_KERNELS_CUDA_RECURRENCE_CUH_

#include <algorithm>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/errors.h"

namespace mambad::kernels::cuda {

inline int64_t RoundUp16(int64_t count) { return (count + 15) / 16 * 16; }

// Floats of a slot's parts: the state [.], an input row of the convolution, what a replay row
// keeps.
struct SlotParts {
  int64_t state = 0, channels = 0, replay_row = 0;
  int convolution_width = 1, waiting_rows = 0;
};

inline RecurrentSlotLayout LayoutOfSlot(const SlotParts& parts, int window_rows,
                                        bool keeps_working) {
  if (window_rows < 0 || window_rows > kMaxWindowRows) Fail("slot: window rows", {window_rows});
  RecurrentSlotLayout layout;
  layout.window_rows = window_rows;
  // What is extended row by row stores a state in every call as it is.
  layout.waiting_rows = keeps_working ? 0 : parts.waiting_rows;
  layout.replay_rows = std::max(window_rows, layout.waiting_rows);
  layout.ring_rows = std::max(1, parts.convolution_width - 1 + window_rows);
  layout.checkpoint = 0;
  int64_t at = RoundUp16(parts.state);
  if (keeps_working) {
    layout.working = at;
    at += RoundUp16(parts.state);
  }
  layout.ring = at;
  at += RoundUp16(layout.ring_rows * parts.channels);
  layout.replay = at;
  layout.replay_row = RoundUp16(parts.replay_row);
  layout.floats = at + layout.replay_rows * layout.replay_row;
  return layout;
}

// Whether a view's rows begin on 16 bytes.
inline bool BeginsOn16Bytes(const RowsView& view) {
  return view.stride % 4 == 0 && reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
}

#ifdef __CUDACC__

// Copies a number into shared memory; done when a wait says so (ptx.cuh).
__device__ __forceinline__ void CopyWordAsync(float* to, const float* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from)
               : "memory");
}

// Row i of the recurrence is replay row i for i < replay, else row row_begin + i - replay of the
// call. A sequence that is not there has no rows, and its slot is never looked at.
struct SequenceRows {
  float* slot = nullptr;
  int64_t row_begin = 0;
  int replay = 0;  // replay rows to run first
  int rows = 0;    // rows of the call
  int stored = 0;  // rows of the recurrence after which the checkpoint is stored; 0: it stays
  int kept = 0;    // the first row of the recurrence that is kept
  int keep_at = 0;
  bool resumes = false, stores_working = false;

  __device__ int total() const { return replay + rows; }
  // Whether a state is worth loading: rows that nobody looks at and that change nothing are not.
  __device__ bool runs() const { return rows > 0 || stored > 0; }
  // Row of the call for row i of the recurrence, i >= replay.
  __device__ int64_t call_row(int i) const { return row_begin + i - replay; }
};

__device__ inline SequenceRows RowsOfSequence(const Batch& batch, const RecurrentState& state,
                                              int s) {
  SequenceRows rows;
  const int keep_from = batch.keep_from[s];
  rows.slot = state.data + batch.slot[s] * state.slot_stride;
  rows.row_begin = batch.row_begin[s];
  rows.replay = batch.replay[s];
  rows.rows = batch.row_begin[s + 1] - batch.row_begin[s];
  rows.kept = rows.replay + keep_from;
  rows.stored = batch.fold[s] != 0 ? rows.kept : 0;
  rows.keep_at = batch.keep_at[s];
  rows.resumes = batch.resume[s] != 0;
  rows.stores_working = batch.keeps_working && rows.rows > keep_from;
  if (batch.slot[s] < 0) rows.rows = rows.replay = rows.stored = rows.kept = 0;
  return rows;
}

__device__ inline float* ReplayRow(const SequenceRows& rows, const RecurrentSlotLayout& layout,
                                   int i) {
  return rows.slot + layout.replay + i * layout.replay_row;
}

// Where the inputs of row i of the recurrence are kept, i >= kept. May be a replay row of this very
// call: all who read that one must have read it.
__device__ inline float* KeptRow(const SequenceRows& rows, const RecurrentSlotLayout& layout,
                                 int i) {
  return ReplayRow(rows, layout, rows.keep_at + i - rows.kept);
}

// Rows from i on, up to `end`, that are all replayed or all of the call, and after which a
// checkpoint may be stored but not before: the place behind the last of them.
__device__ inline int SegmentEnd(const SequenceRows& rows, int i, int end) {
  if (i < rows.replay) end = min(end, rows.replay);
  if (i < rows.stored) end = min(end, rows.stored);
  return end;
}

__device__ inline const float* LoadedState(const SequenceRows& rows,
                                           const RecurrentSlotLayout& layout) {
  return rows.slot + (rows.resumes ? layout.working : layout.checkpoint);
}

#endif  // __CUDACC__

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_RECURRENCE_CUH_
