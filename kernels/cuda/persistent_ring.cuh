// A block's weights on their way: a ring of pieces in shared memory, filled in the order in which
// the block's warps multiply them, across products, layers and exchanges, for weights wait for
// nobody. Threads of their own ask for them, each for every kFetchers-th piece.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_block.cuh"

namespace mambad::kernels::cuda {

// The places of a block's pieces, one behind the other, by one who walks all of them. Panels are
// walked one by one or, where there are pairs, two by two: first pieces first, of the first panel
// eighth by eighth, then of the second; an eighth by itself piece by piece.
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

// One of the warps that ask for pieces: one lane asks for whole tiles, all of them for parts.
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
      const PassStep step = block_.Step(i);
      if (block_.Skips(step)) continue;
      const bool all = step.split == PassSplit::kPanel;
#pragma unroll 1
      for (PassUnits units(step); units.There(step);) {
        PassUnits second = units;
        second.Advance(step);
        const int pair = all && block_.Pairs(second) && second.There(step) ? 1 : 0;
        const int eighth = all ? 0 : units.unit % kEighths, end = all ? kEighths : eighth + 1;
#pragma unroll 1
        for (int i = 0; i < step.pieces << pair; ++i) {
          const PassUnits& of = (i & pair) != 0 ? second : units;
          if ((i >> pair & of.LaterPieces()) == 0) AskFor(step, of, i >> pair, eighth, end);
        }
        units = second;
        if (pair != 0) units.Advance(step);
      }
    }
  }

 private:
  // Pieces of eighths [eighth, end), of those every kFetchers-th: `piece` is a whole panel's.
  __device__ __forceinline__ void AskFor(const PassStep& step, const PassUnits& units, int piece,
                                         int eighth, int end) {
    const uint32_t number = number_ - eighth;
    number_ += end - eighth;
    const int first = piece * step.piece_steps, most = step.piece_steps << units.cuts;
    const uint4* const panel = step.weights + int64_t{units.Panel(step)} * step.steps * kWarp;
#pragma unroll 1
    for (eighth += turn_of_; eighth < end; eighth += kFetchers) {
      const int begin = PassEighth(step.steps, eighth);
      const int steps = PassEighth(step.steps, eighth + 1) - begin;
      Ask(units, panel + (begin + first) * kWarp, max(min(steps - first, most), 0));
      if (lane_ == 0) *block_.Asked(first_) = number + eighth + 1;
    }
    turn_of_ = eighth - end;
  }
  __device__ __forceinline__ void Ask(const PassUnits& units, const uint4* from, int count) {
    __syncwarp();
    AwaitTurn(block_.PieceTaken(ask_), ask_turn_ ^ 1);
    AwaitFew();
    uint64_t* const came = block_.PieceCame(ask_);
    if (units.cuts > 0) {
      FetchParts(units, from, count, came);
    } else if (lane_ == 0 && count > 0) {
      const uint32_t bytes = count * kTileBytes;
      ArriveAndAnnounce(came, bytes);
      CopyBulk(block_.Piece(ask_), from, bytes, came, policy_);
    } else if (lane_ == 0) {
      Arrive(came);
    }
    ask_ += kFetchers;
    if (ask_ >= places_) ask_ = first_, ask_turn_ ^= 1;
  }
  // Of `count` tiles from `from` on the lanes of the part, one behind the other.
  __device__ __forceinline__ void FetchParts(const PassUnits& units, const uint4* from, int count,
                                             uint64_t* came) {
    const int lanes = units.Lanes(), lane = lane_ & (lanes - 1);
    const uint4* const first = from + units.part * lanes + lane;
    uint4* const to = block_.Piece(ask_) + lane;
#pragma unroll 4
    for (int i = lane_ >> (5 - units.cuts); i < count; i += 1 << units.cuts) {
      CopyAsyncOnce(to + i * lanes, first + i * kWarp, policy_);
    }
    ArriveBehindCopies(came);
    __syncwarp();
    if (lane_ == 0) Arrive(came);
  }
  // Until few enough are on their way, which come in no order but are waited for in theirs.
  __device__ __forceinline__ void AwaitFew() {
    if (in_flight_ < block_.program.in_flight) {
      ++in_flight_;
      return;
    }
    AwaitTurn(block_.PieceCame(land_), land_turn_);
    land_ += kFetchers;
    if (land_ >= places_) land_ = first_, land_turn_ ^= 1;
  }

  const PassBlock& block_;
  const int lane_ = threadIdx.x % kWarp;
  const int places_, first_;
  const uint64_t policy_ = ReadOnce();
  int turn_of_;          // pieces before the next one that is this warp's
  int ask_, land_;       // the place asked for next, the next one to come
  uint32_t number_ = 0;  // pieces up to those at hand
  uint32_t ask_turn_ = 0, land_turn_ = 0;
  int in_flight_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_
