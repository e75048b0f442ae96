// The multiplying warps of a pass. Warp e multiplies eighth e of the columns of every panel of its
// block (packing.cuh), as fast as weights and mail come: it waits for no other warp.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_MULTIPLY_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_MULTIPLY_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_block.cuh"
#include "kernels/cuda/persistent_ring.cuh"

namespace mambad::kernels::cuda {

class PassMultiplier {
 public:
  __device__ __forceinline__ explicit PassMultiplier(const PassBlock& block)
      : block_(block),
        program_(block.program),
        warp_(threadIdx.x / kWarp),
        lane_(threadIdx.x % kWarp),
        pieces_(block.program.ring_pieces) {}

  __device__ __forceinline__ void Walk() {
#pragma unroll 1
    for (int i = 0; i < program_.step_count; ++i) {
      const PassStep step = block_.Step(i);
      if (block_.Skips(step)) continue;
      PassUnits units(step);
      if (!units.There(step)) continue;
      if (step.split == PassSplit::kEighth) {
        Select(step, units);
        continue;
      }
      if (step.action != PassAction::kGates) FetchOperands(step);  // else those of kChannels
#pragma unroll 1
      for (; units.There(step); units.Advance(step)) {
        const PassUnits first = units;
        units.Advance(step);
        if (block_.Pairs(units) && units.There(step)) {
          float sums[2][4] = {};
          Multiply<2>(step, {first, units}, sums);
          Leave(step, first, sums[0]);
          Leave(step, units, sums[1]);
        } else {
          float sums[1][4] = {};
          Multiply<1>(step, {first}, sums);
          Leave(step, first, sums[0]);
          units = first;
        }
      }
      Tell(step, units);
    }
  }

 private:
  __device__ __forceinline__ void Leave(const PassStep& step, const PassUnits& units,
                                        const float (&sums)[4]) {
    switch (step.action) {
      case PassAction::kHead:
        return LeaveHeadSums(sums);
      case PassAction::kGates:
        return LeaveSums(block_.GatePlace(units.round), sums);
      case PassAction::kOutput:
        return LeaveSums(block_.OutputPlace(units.round), sums);
      default:
        return LeaveSums(block_.ChannelPlace(units.round), sums);
    }
  }
  // Behind the last unit of a step. Gates come in two, and their sums are taken together.
  __device__ __forceinline__ void Tell(const PassStep& step, const PassUnits& units) const {
    if (step.action == PassAction::kChannels) ArriveAt(kChannelSums);
    if (step.action == PassAction::kGates && !units.More(step)) ArriveAt(kGateSums);
    if (step.action == PassAction::kOutput) ArriveAt(kOutputSums);
  }
  // What this warp wrote to shared memory is seen by who waits for all.
  __device__ __forceinline__ void ArriveAt(int meeting) const {
    __syncwarp();
    if (lane_ == 0) Arrive(block_.Meeting(meeting));
  }

  __device__ __forceinline__ uint2* Operands(const PassStep& step) const {
    if (step.action == PassAction::kSelect) {
      const int longest = LongestEighth(program_.inner_steps), which = warp_ % program_.selections;
      return block_.At<uint2>(block_.place.select) + which * longest * program_.rows * 4;
    }
    const int longest = LongestEighth(max(program_.inner_steps, program_.residual_steps));
    return block_.At<uint2>(block_.place.operands) + warp_ * longest * program_.rows * 4;
  }
  // Operands of this warp's columns, of all rows, when they are there.
  __device__ __forceinline__ void FetchOperands(const PassStep& step) {
    constexpr int kAtOnce = 10;
    const int begin = PassEighth(step.steps, warp_), end = PassEighth(step.steps, warp_ + 1);
    const uint2* const mail = step.action == PassAction::kSelect   ? block_.X(step.layer)
                              : step.action == PassAction::kOutput ? block_.Gated(step.layer)
                                                                   : block_.Residual(step.layer);
    const int there = block_.there, count = (end - begin) * there * 2;
    const uint4* const from = reinterpret_cast<const uint4*>(mail) + begin * there * 2;
    // Who has no columns waits as well: nobody runs ahead of the others of the block by a layer.
    AwaitWord(from + max(count, 1) - 1);
    uint4* const to = reinterpret_cast<uint4*>(Operands(step));
#pragma unroll 1
    for (int at = lane_; at < count; at += kAtOnce * kWarp) {
      uint4 words[kAtOnce];
      const auto wanted = [&](int k) { return at + k * kWarp < count; };
      TakeWords(words, wanted, [&](int k) { return from + at + k * kWarp; });
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (wanted(k)) to[at + k * kWarp] = words[k];
      }
    }
    __syncwarp();
  }

  // Units of which each warp multiplies one, that of its eighth.
  __device__ __forceinline__ void Select(const PassStep& step, PassUnits units) {
    bool fetched = false;
#pragma unroll 1
    for (; units.There(step); units.Advance(step)) {
      if (units.unit % kEighths != warp_) {
        pieces_.Advance(step.pieces);
        continue;
      }
      if (!fetched) FetchOperands(step);
      fetched = true;
      float sums[1][4] = {};
      Multiply<1>(step, {units}, sums);
      SendPart(step, units, sums[0]);
    }
  }

  // This warp's eighth of one or two units, a chain of products each: while one is waited for, the
  // other goes on. Pieces come as WeightFetcher asks for them.
  template <int kUnits>
  __device__ __forceinline__ void Multiply(const PassStep& step, const PassUnits (&units)[kUnits],
                                           float (&sums)[kUnits][4]) {
    const bool all = step.split == PassSplit::kPanel;
    const int steps = PassEighth(step.steps, warp_ + 1) - PassEighth(step.steps, warp_);
    // Token lane / 4, pair lane % 4. Lanes beyond the tokens that there are, and beside a part's,
    // multiply some of them once more; nobody looks at these sums.
    const int token = min(lane_ / 4, block_.Rows(step) - 1), apart = block_.there * 4;
    const uint2* operand = Operands(step) + block_.RowOf(step, token) * 4 + lane_ % 4;
    const uint4* tiles[kUnits];
    int places[kUnits] = {};
#pragma unroll 1
    for (int piece = 0; piece < step.pieces; ++piece) {
      const int count = min(steps - piece * step.piece_steps, +step.piece_steps);
      int begun = 0;
#pragma unroll
      for (int j = 0; j < kUnits; ++j) {
        if ((piece & units[j].LaterPieces()) != 0) continue;
        places[j] = AwaitPiece(all ? begun * kEighths + warp_ : 0);
        tiles[j] = block_.Piece(places[j]) + (lane_ & (units[j].Lanes() - 1));
        ++begun;
      }
      pieces_.Advance(all ? begun * kEighths : 1);
      MultiplySome(count, units, tiles, operand, apart, sums);
      __syncwarp();
#pragma unroll
      for (int j = 0; j < kUnits; ++j) {
        const bool last = ((piece + 1) & units[j].LaterPieces()) == 0 || piece + 1 == step.pieces;
        if (last && lane_ == 0) Arrive(block_.PieceTaken(places[j]));
      }
    }
  }
  // Waits for the piece `ahead` places on; its place. A word tells only of its turn at hand and the
  // one before, and a warp may be further ahead of who asks for pieces: it waits until that is
  // asked for.
  __device__ __forceinline__ int AwaitPiece(int ahead) {
    uint32_t turn;
    const int place = pieces_.Place(ahead, turn);
    const uint32_t number = pieces_.Number(ahead);
    if (number >= asked_) {
      while (*block_.Asked(place % kFetchers) <= number) Rest();
      asked_ = ~0u;
#pragma unroll
      for (int i = 0; i < kFetchers; ++i) asked_ = min(asked_, uint32_t{*block_.Asked(i)});
    }
    AwaitTurn(block_.PieceCame(place), turn);
    return place;
  }
  // `count` tiles of each unit, most without a branch in between: what stands between two products
  // of a chain is waited for.
  template <int kUnits>
  __device__ __forceinline__ void MultiplySome(int count, const PassUnits (&units)[kUnits],
                                               const uint4* (&tiles)[kUnits], const uint2*& operand,
                                               int apart, float (&sums)[kUnits][4]) {
    constexpr int kMost = kUnits == 1 ? 10 : 5;
#pragma unroll 1
    for (; count >= kMost; count -= kMost) {
      MultiplyTiles<kMost>(units, tiles, operand, apart, sums);
    }
#pragma unroll 1
    for (; count >= 3; count -= 3) MultiplyTiles<3>(units, tiles, operand, apart, sums);
#pragma unroll 1
    for (; count > 0; --count) MultiplyTiles<1>(units, tiles, operand, apart, sums);
  }
  template <int kTiles, int kUnits>
  __device__ __forceinline__ void MultiplyTiles(const PassUnits (&units)[kUnits],
                                                const uint4* (&tiles)[kUnits],
                                                const uint2*& operand, int apart,
                                                float (&sums)[kUnits][4]) {
    uint2 right[kTiles];
    uint4 left[kUnits][kTiles];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      right[i] = *operand;
      operand += apart;
#pragma unroll
      for (int j = 0; j < kUnits; ++j) {
        left[j][i] = *tiles[j];
        tiles[j] += units[j].Lanes();
      }
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kUnits; ++j) MultiplyAdd(left[j][i], right[i], sums[j]);
    }
  }

  // Where the eighths of a panel meet.
  __device__ __forceinline__ void LeaveSums(int panel, const float (&sums)[4]) const {
    const int tokens = SumTokens(program_.rows), token = lane_ % 4 * 2;
    if (token >= tokens) return;
    float* const to = block_.Sums(panel, warp_) + lane_ / 4 * tokens + token;
    *reinterpret_cast<float2*>(to) = {sums[0], sums[1]};
    *reinterpret_cast<float2*>(to + 8 * tokens) = {sums[2], sums[3]};
  }
  // The same for one of many panels, when what stood there was taken.
  __device__ __forceinline__ void LeaveHeadSums(const float (&sums)[4]) {
    AwaitTurn(block_.Meeting(kHeadTaken + head_place_), head_turn_ ^ 1);
    LeaveSums(head_place_, sums);
    ArriveAt(kHeadSums + head_place_);
    if (++head_place_ == block_.HeadPlaces()) head_place_ = 0, head_turn_ ^= 1;
  }

  // An eighth by itself; who reads them adds them up.
  __device__ __forceinline__ void SendPart(const PassStep& step, const PassUnits& units,
                                           const float (&sums)[4]) const {
    const int stride = program_.select_stride;
    float* const to = block_.Parts(step.layer, warp_) + units.Panel(step) * kTileRows;
    block_.AwaitCleanMail(step.layer);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int token = lane_ % 4 * 2 + e % 2;
      if (token < block_.there) {
        block_.Send(to + token * stride + lane_ / 4 + e / 2 * 8, __float_as_uint(sums[e]));
      }
    }
  }

  const PassBlock& block_;
  const PassProgram& program_;
  const int warp_, lane_;
  PieceWalk pieces_;
  uint32_t asked_ = 0;  // pieces, at least
  int head_place_ = 0;
  uint32_t head_turn_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_MULTIPLY_CUH_
