#include "kernels/cuda/linear_cut.h"

#include <algorithm>
#include <cstdint>

namespace mambad::kernels::cuda {
namespace {

// Cycles of a multiprocessor's clock, measured on an H200.
constexpr double kMemoryBytes = 17;  // a cycle, from device memory, when all ask for them
constexpr double kMostBytes = 26;    // a cycle, when few do
constexpr double kOutBytes = 45;     // a cycle, to where sums go
// A step, and what each token adds to it for every warpgroup that multiplies.
constexpr double kStepCycles = 80, kTokenCycles = 0.6;
constexpr double kTileCycles = 1000;     // from one tile to the next
constexpr double kMeetingCycles = 8000;  // a cluster's begin, and until eighths have met
constexpr int kEighths = 8;              // of the columns, a cluster's blocks
// Tiles of fewer tokens only where there are no more: weights are read anew for each.
constexpr int64_t kLeastTileTokens = 64;

int64_t Quotient(int64_t a, int64_t b) { return (a + b - 1) / b; }

double Cycles(const TileKind& kind, int64_t tile_panels, int64_t panels, int64_t steps,
              int64_t rows, const ProductUnits& units) {
  const int64_t token_tiles = Quotient(rows, kind.tokens);
  const int64_t tiles = Quotient(panels, tile_panels) * token_tiles;
  const int64_t at_once = kind.split ? units.clusters : units.multiprocessors;
  const double tile_bytes = static_cast<double>(tile_panels * 512 * (kind.split ? kEighths : 1));
  const double multiply =
      kStepCycles + kTokenCycles * static_cast<double>(Quotient(tile_panels, 4) * kind.tokens);
  const double alone = std::max(multiply, static_cast<double>(tile_panels * 512) / kMostBytes);
  // Of a step, where so many tiles run beside each other; tiles of tokens share weights.
  const auto step = [&](int64_t count) {
    const double bytes = static_cast<double>(count) * tile_bytes / static_cast<double>(token_tiles);
    return count == 0 ? 0 : std::max(alone, bytes / kMemoryBytes / units.multiprocessors);
  };
  const double tile_steps = static_cast<double>(steps) / (kind.split ? kEighths : 1);
  const double work =
      tile_steps * (static_cast<double>(tiles / at_once) * step(at_once) + step(tiles % at_once));
  const double out = static_cast<double>(tile_panels * 16 * kind.tokens * 4) / kOutBytes;
  const double end = kTileCycles + (kind.split ? 2 * out + kMeetingCycles : out);
  return work + static_cast<double>(Quotient(tiles, at_once)) * end;
}

}  // namespace

Cut ChooseCut(int64_t panels, int64_t steps, int64_t rows, const ProductUnits& units) {
  Cut best;
  double least = 0;
  for (const TileKind& kind : kTileKinds) {
    if (kind.tokens < std::min<int64_t>(rows, kLeastTileTokens)) continue;
    if (kind.split && units.clusters == 0) continue;
    for (int tile_panels = 1; tile_panels <= kind.most_panels; ++tile_panels) {
      const double cycles = Cycles(kind, tile_panels, panels, steps, rows, units);
      if (best.tokens != 0 && cycles >= least) continue;
      least = cycles;
      best = {kind.tokens, kind.split, tile_panels,
              static_cast<int>(Quotient(panels, tile_panels))};
    }
  }
  return best;
}

}  // namespace mambad::kernels::cuda
