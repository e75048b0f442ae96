// Private to Mamba-2's mixer; apart so that the recurrence can be held against published values
// without its neighbours.

#ifndef MAMBAD_KERNELS_CPU_MAMBA2_SCAN_H_
#define MAMBAD_KERNELS_CPU_MAMBA2_SCAN_H_

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace mambad::kernels {

// The recurrence between convolution and norm: gated [R, I] = (S C + D x) SiLU(z),
// verify-and-commit, replay rows kept. projected [R, rows of `in`] gives z and dt, convolved [R,
// channels] x, B and C.
void Mamba2Scan(ThreadPool& pool, const Batch& batch, const Mamba2Layer& layer,
                const RecurrentState& state, const RowsView& projected, const RowsView& convolved,
                const RowsView& gated);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_MAMBA2_SCAN_H_
