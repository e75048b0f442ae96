// Rows on their way into a product on warpgroups (linear_warpgroups.cuh): bfloat16, in tiles of
// some rows. Whoever makes rows for one product alone writes them so, and they need not be read and
// written once more.

#ifndef MAMBAD_KERNELS_CUDA_TOKEN_TILES_H_
#define MAMBAD_KERNELS_CUDA_TOKEN_TILES_H_

#include <cstdint>

namespace mambad::kernels::cuda {

// [tiles of `tokens` rows][stages][tokens][64 columns], the last as SwizzledPiece says
// (token_tiles.cuh). Device memory of a LinearScratch, until the product has been enqueued.
struct TokenTiles {
  uint16_t* data = nullptr;  // nullptr: the product takes rows as they are
  int tokens = 0, stages = 0;

  explicit operator bool() const { return data != nullptr; }
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TOKEN_TILES_H_
