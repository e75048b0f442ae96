// How a product on warpgroups (linear_warpgroups.cuh) is cut among blocks. It follows from sizes
// alone and changes no bit of a result.

#ifndef MAMBAD_KERNELS_CUDA_LINEAR_CUT_H_
#define MAMBAD_KERNELS_CUDA_LINEAR_CUT_H_

#include <cstdint>

namespace mambad::kernels::cuda {

// What products find on a device.
struct ProductUnits {
  int multiprocessors = 0;
  bool warpgroups = false;  // the device and its code have products of warpgroups
  int clusters = 0;         // of blocks of eighths of them that run at the same time
};

// Tiles of tile_panels panels by `tokens` tokens; where split, of one eighth of the columns each.
struct Cut {
  int tokens = 0;
  bool split = false;
  int tile_panels = 0, panel_tiles = 0;
};

// The kinds of tiles that there are.
struct TileKind {
  bool split;
  int tokens, most_panels;
};
inline constexpr TileKind kTileKinds[] = {
    {false, 16, 8},  {false, 32, 8}, {false, 64, 8}, {false, 96, 8}, {false, 128, 8},
    {false, 160, 8}, {true, 16, 16}, {true, 32, 16}, {true, 64, 16}, {true, 128, 12}};
inline constexpr int kMostTileTokens = 160;
// Columns come in pieces of so many steps: four in each eighth.
inline constexpr int kCutSteps = 32;

template <typename Use>
void ForEachTileKind(const Use& use) {
  for (const TileKind& kind : kTileKinds) use(kind.split, kind.tokens);
}

// The cut with the least time, as far as sizes tell.
Cut ChooseCut(int64_t panels, int64_t steps, int64_t rows, const ProductUnits& units);

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_LINEAR_CUT_H_
