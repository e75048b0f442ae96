// A block's weights on their way: a ring of pieces in shared memory, filled in the order in which
// the block's warps multiply them, across products, layers and exchanges, for weights wait for
// nobody. A thread of its own asks for them.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_block.cuh"

namespace mambad::kernels::cuda {

// The places of a block's pieces, one behind the other, by one who walks all of them. All pieces of
// a panel are walked eighth by eighth, first pieces first; an eighth by itself piece by piece.
class PieceWalk {
 public:
  __device__ __forceinline__ explicit PieceWalk(int places) : places_(places) {}

  __device__ __forceinline__ void Advance(int count) {
    place_ += count;
    while (place_ >= places_) place_ -= places_, turn_ ^= 1;
  }
  // The piece `ahead` places on, fewer than there are.
  __device__ __forceinline__ int Place(int ahead, uint32_t& turn) const {
    const int place = place_ + ahead;
    turn = place < places_ ? turn_ : turn_ ^ 1;
    return place < places_ ? place : place - places_;
  }

 private:
  const int places_;
  int place_ = 0;
  uint32_t turn_ = 0;
};

// Piece `piece` of an eighth of `steps` steps: [first, first + count).
struct PieceOf {
  int first, count;
  __device__ __forceinline__ PieceOf(const PassStep& step, int steps, int piece)
      : first(min(piece * step.piece_steps, steps)), count(min(steps - first, +step.piece_steps)) {}
};

// The thread that asks for all pieces.
class WeightFetcher {
 public:
  __device__ __forceinline__ explicit WeightFetcher(const PassBlock& block)
      : block_(block), places_(block.program.ring_pieces) {}

  __device__ __forceinline__ void Walk() {
    const int count = block_.program.step_count;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const PassStep step = block_.Steps()[i];
      if (block_.Skips(step)) continue;
#pragma unroll 1
      for (PassUnits units(step); units.There(step); units.Advance(step)) {
        const uint4* const panel = step.weights + int64_t{units.Panel(step)} * step.steps * kWarp;
        const bool all = step.split == PassSplit::kPanel;
        const int first = all ? 0 : units.unit % kEighths, end = all ? kEighths : first + 1;
#pragma unroll 1
        for (int piece = 0; piece < step.pieces; ++piece) {
#pragma unroll 1
          for (int eighth = first; eighth < end; ++eighth) Ask(step, panel, eighth, piece);
        }
      }
    }
  }

 private:
  __device__ __forceinline__ void Ask(const PassStep& step, const uint4* panel, int eighth,
                                      int piece) {
    const int begin = PassEighth(step.steps, eighth);
    const PieceOf part(step, PassEighth(step.steps, eighth + 1) - begin, piece);
    AwaitTurn(block_.PieceTaken(ask_), ask_turn_ ^ 1);
    AwaitFew();
    ++in_flight_;
    uint64_t* const came = block_.PieceCame(ask_);
    const uint32_t bytes = part.count * kTileBytes;
    if (bytes > 0) {
      ArriveAndAnnounce(came, bytes);
      CopyBulk(block_.Piece(ask_), panel + (begin + part.first) * kWarp, bytes, came, policy_);
    } else {
      Arrive(came);
    }
    if (++ask_ == places_) ask_ = 0, ask_turn_ ^= 1;
  }
  // Until few enough are on their way.
  __device__ __forceinline__ void AwaitFew() {
    while (in_flight_ >= block_.program.in_flight) {
      if (TurnedOver(block_.PieceCame(land_), land_turn_)) {
        --in_flight_;
        last_ = land_, last_turn_ = land_turn_;
        if (++land_ == places_) land_ = 0, land_turn_ ^= 1;
      } else if (in_flight_ < block_.program.in_flight_hungry &&
                 (last_ < 0 || TurnedOver(block_.PieceTaken(last_), last_turn_))) {
        return;  // all that came was multiplied
      }
    }
  }

  const PassBlock& block_;
  const int places_;
  const uint64_t policy_ = ReadOnce();
  int ask_ = 0, land_ = 0, last_ = -1;  // the place asked for next, the next one to come, the last
  uint32_t ask_turn_ = 0, land_turn_ = 0, last_turn_ = 0;
  int in_flight_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_
