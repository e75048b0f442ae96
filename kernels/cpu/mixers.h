// The parts of a mixer between its products: convolution, scan, gate, attention over pages. Each
// follows the verify-and-commit rule of kernels/backend.h for its sequences, threads split over
// (sequence, channel block or head).

#ifndef MAMBAD_KERNELS_CPU_MIXERS_H_
#define MAMBAD_KERNELS_CPU_MIXERS_H_

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace mambad::kernels {

RecurrentSlotLayout MambaSlotLayout(const MambaLayer& layer, int window_rows, bool keeps_working);
RecurrentSlotLayout Mamba2SlotLayout(const Mamba2Layer& layer, int window_rows, bool keeps_working);

// Mamba-1, first half: repeats x (MambaInLlama), convolves with the ring before the rows, applies
// SiLU. `projected` [R, in rows] is the in-projection; x_out [R, I]. Writes the rows' convolution
// inputs to the ring.
void MambaConvolution(ThreadPool& pool, const Batch& batch, const MambaLayer& layer,
                      const RecurrentState& state, const RowsView& projected,
                      const RowsView& x_out);

// Mamba-1, second half: dt, scan, skip, gate. x [R, I] convolved; delta [R, I] before the bias; b
// [R, N], c [R, N] where G is 1 (strided views into the selection), or MambaInLlama's sources in
// `projected` (b [R, source_width], c [R, I]). gated [R, I] may be x itself.
void MambaScan(ThreadPool& pool, const Batch& batch, const MambaLayer& layer,
               const RecurrentState& state, const RowsView& x, const RowsView& delta,
               const RowsView& b, const RowsView& c, const RowsView& z, const RowsView& gated);

// Mamba-2: convolution, scan, gate, gated norm. convolved: scratch [R, convolution channels]; out
// [R, I].
void Mamba2Mix(ThreadPool& pool, const Batch& batch, const Mamba2Layer& layer,
               const RecurrentState& state, const RowsView& projected, const RowsView& convolved,
               const RowsView& out);

// Keys and values as kernels/backend.h has them; `type` float32 or bfloat16.
KeyValueLayout AttentionPageLayout(const AttentionLayer& layer, ElementType type);

// Norms of heads, rotary embedding, appends keys and values to the pages, causal attention.
// projected [R, (H + 2 K) hd] (query and key are rotated in place); out [R, H hd].
void PagedAttention(ThreadPool& pool, const Batch& batch, const AttentionLayer& layer,
                    const KeyValueState& state, const RowsView& projected, const RowsView& out);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_MIXERS_H_
