// A block's weights on their way: a ring of pieces in shared memory, filled in the order in which
// the block's warps multiply them, across products, layers and exchanges, for weights wait for
// nobody. Threads of their own ask for them, each for every kFetchers-th piece.

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
    place_ += count, number_ += count;
    while (place_ >= places_) place_ -= places_, turn_ ^= 1;
  }
  // Of all pieces.
  __device__ __forceinline__ uint32_t Number(int ahead) const { return number_ + ahead; }
  // The piece `ahead` places on, fewer than there are.
  __device__ __forceinline__ int Place(int ahead, uint32_t& turn) const {
    const int place = place_ + ahead;
    turn = place < places_ ? turn_ : turn_ ^ 1;
    return place < places_ ? place : place - places_;
  }

 private:
  const int places_;
  int place_ = 0;
  uint32_t turn_ = 0, number_ = 0;
};

// Waits for piece number `number`, at `place`. A word tells only of its turn at hand and the one
// before, and a warp may be further ahead of who asks for pieces: it waits until that is asked for.
__device__ __forceinline__ void AwaitPiece(const PassBlock& block, int place, uint32_t turn,
                                           uint32_t number) {
  while (*block.Asked(place % kFetchers) <= number) Rest();
  AwaitTurn(block.PieceCame(place), turn);
}

// Piece `piece` of an eighth of `steps` steps: [first, first + count).
struct PieceOf {
  int first, count;
  __device__ __forceinline__ PieceOf(const PassStep& step, int steps, int piece)
      : first(min(piece * step.piece_steps, steps)), count(min(steps - first, +step.piece_steps)) {}
};

// One of the threads that ask for pieces.
class WeightFetcher {
 public:
  __device__ __forceinline__ WeightFetcher(const PassBlock& block, int which)
      : block_(block),
        places_(block.program.ring_pieces),
        first_(which),
        turn_of_(which),
        ask_(which),
        land_(which) {}

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
          for (int eighth = first; eighth < end; ++eighth) {
            ++number_;
            if (--turn_of_ >= 0) continue;
            Ask(step, panel, eighth, piece);
            turn_of_ = kFetchers - 1;
          }
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
    *block_.Asked(first_) = number_;
    ask_ += kFetchers;
    if (ask_ >= places_) ask_ = first_, ask_turn_ ^= 1;
  }
  // Until few enough are on their way.
  __device__ __forceinline__ void AwaitFew() {
    while (in_flight_ >= block_.program.in_flight) {
      if (TurnedOver(block_.PieceCame(land_), land_turn_)) {
        --in_flight_;
        last_ = land_, last_turn_ = land_turn_;
        land_ += kFetchers;
        if (land_ >= places_) land_ = first_, land_turn_ ^= 1;
      } else if (in_flight_ < block_.program.in_flight_hungry &&
                 (last_ < 0 || TurnedOver(block_.PieceTaken(last_), last_turn_))) {
        return;  // all that came was multiplied
      }
    }
  }

  const PassBlock& block_;
  const int places_, first_;
  const uint64_t policy_ = ReadOnce();
  int turn_of_;                 // pieces before the next one that is this thread's
  int ask_, land_, last_ = -1;  // the place asked for next, the next one to come, the last
  uint32_t number_ = 0;         // pieces up to the one at hand
  uint32_t ask_turn_ = 0, land_turn_ = 0, last_turn_ = 0;
  int in_flight_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_
