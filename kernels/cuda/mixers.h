// The parts of a mixer between its products: convolution, scan, gate, attention over pages. Each
// follows the verify-and-commit rule of kernels/backend.h for its sequences.
//
// Launchers only enqueue on `stream`: nothing is allocated, waited for or read back, so that they
// can be captured. What a Batch, a layer and a state point to is device memory. Grids follow from
// batch.sequences, batch.rows and batch.max_position, which in decode rounds are upper bounds; how
// much there is stands in the batch's arrays, and blocks beyond it end at once.
//
// A number is summed in an order that follows from the layer's sizes alone (attention: and from the
// row's position): how rows are dealt out to blocks never changes a bit.
//
// Layers that do not fit what is said here end the process with their numbers. What stands in
// device memory (slots, pages, rows to replay and to keep) is believed.

#ifndef MAMBAD_KERNELS_CUDA_MIXERS_H_
#define MAMBAD_KERNELS_CUDA_MIXERS_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/token_tiles.h"

namespace mambad::kernels::cuda {

// Checkpoints and working states lie as kernels/backend.h says, replay rows behind one another,
// last in the block. State sizes of Mamba-1 up to 256, of Mamba-2 up to 1,024.
RecurrentSlotLayout MambaSlotLayout(const MambaLayer& layer, int window_rows, bool keeps_working);
RecurrentSlotLayout Mamba2SlotLayout(const Mamba2Layer& layer, int window_rows, bool keeps_working);

// Mamba-1, first half: repeats x (MambaInLlama), convolves with the ring before the rows, applies
// SiLU. `projected` [R, in rows] is the in-projection; the result goes to x_out [R, I], and into
// tiles, too, where some are given. Writes the rows' convolution inputs to the ring.
void MambaConvolution(cudaStream_t stream, const Batch& batch, const MambaLayer& layer,
                      const RecurrentState& state, const RowsView& projected, const RowsView& x_out,
                      const TokenTiles& tiles = {});

// Mamba-1, second half: dt, scan, skip, gate. x [R, I] convolved; delta [R, I] before the bias; b
// [R, N], c [R, N] where G is 1 (strided views into the selection), or MambaInLlama's sources in
// `projected` (b [R, source_width], c [R, I]). gated [R, I] may be x itself; where tiles are
// given, the result goes there instead.
void MambaScan(cudaStream_t stream, const Batch& batch, const MambaLayer& layer,
               const RecurrentState& state, const RowsView& x, const RowsView& delta,
               const RowsView& b, const RowsView& c, const RowsView& z, const RowsView& gated,
               const TokenTiles& tiles = {});

// Mamba-2: convolution, scan, gate, gated norm. convolved: scratch [R, convolution channels]; out
// [R, I], scratch alone where tiles are given, where the result then goes.
void Mamba2Mix(cudaStream_t stream, const Batch& batch, const Mamba2Layer& layer,
               const RecurrentState& state, const RowsView& projected, const RowsView& convolved,
               const RowsView& out, const TokenTiles& tiles = {});

// Keys and values [K][kPageTokens][hd] of each page; `type` float32 or bfloat16.
KeyValueLayout AttentionPageLayout(const AttentionLayer& layer, ElementType type);

// Where few rows look back far, several blocks share a row's keys and leave here what they found.
// Which rows do follows from what fits; with no scratch at all none do, and all gives the same
// bits.
struct AttentionScratch {
  float* data = nullptr;
  int64_t bytes = 0;
};

// Bytes with which every layer of such a workspace finds room.
int64_t AttentionScratchBytes(const WorkspaceShape& shape);

// Norms of heads, rotary embedding, appends keys and values to the pages, causal attention.
// projected [R, (H + 2 K) hd] (query heads are normalised and rotated in place, keys and values
// stay as they came); out [R, H hd]. Heads up to 256 wide.
void PagedAttention(cudaStream_t stream, const Batch& batch, const AttentionLayer& layer,
                    const KeyValueState& state, const RowsView& projected, const RowsView& out,
                    const AttentionScratch& scratch);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_MIXERS_H_
