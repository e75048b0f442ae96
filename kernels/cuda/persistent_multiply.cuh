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
      const PassStep step = block_.Steps()[i];
      if (block_.Skips(step)) continue;
      bool fetched = step.action == PassAction::kGates;  // the operands are those of kChannels
      PassUnits units(step);
      if (!units.There(step)) continue;
#pragma unroll 1
      for (; units.There(step); units.Advance(step)) {
        if (step.split == PassSplit::kEighth && units.unit % kEighths != warp_) {
          pieces_.Advance(step.pieces);
          continue;
        }
        if (!fetched) FetchOperands(step);
        fetched = true;
        float sums[4] = {};
        Multiply(step, sums);
        Leave(step, units, sums);
      }
      Tell(step, units);
    }
  }

 private:
  __device__ __forceinline__ void Leave(const PassStep& step, const PassUnits& units,
                                        const float (&sums)[4]) {
    switch (step.action) {
      case PassAction::kSelect:
        return SendPart(step, units, sums);
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

  // A unit of this warp, a chain.
  __device__ __forceinline__ void Multiply(const PassStep& step, float (&sums)[4]) {
    const bool all = step.split == PassSplit::kPanel;
    const int begin = PassEighth(step.steps, warp_);
    const int steps = PassEighth(step.steps, warp_ + 1) - begin, apart = block_.there * 4;
    // Token lane / 4, pair lane % 4.
    const int token = lane_ / 4;
    const bool present = token < block_.Rows(step);
    const uint2* const operand =
        Operands(step) + (present ? block_.RowOf(step, token) : 0) * 4 + lane_ % 4;
#pragma unroll 1
    for (int piece = 0; piece < step.pieces; ++piece) {
      const PieceOf part(step, steps, piece);
      uint32_t turn;
      const int place = pieces_.Place(all ? warp_ : 0, turn);
      AwaitPiece(block_, place, turn, pieces_.Number(all ? warp_ : 0));
      MultiplySome(part.count, block_.Piece(place) + lane_, operand + part.first * apart, apart,
                   present, sums);
      __syncwarp();
      if (lane_ == 0) Arrive(block_.PieceTaken(place));
      pieces_.Advance(all ? kEighths : 1);
    }
  }
  // `count` tiles, most without a branch in between: a warp's products are a chain, and what stands
  // between two of them is waited for.
  __device__ __forceinline__ void MultiplySome(int count, const uint4* tiles, const uint2* operand,
                                               int apart, bool present, float (&sums)[4]) {
    const int most = count % 6 == 0 ? 6 : 10;
#pragma unroll 1
    for (; count >= most; count -= most) {
      if (most == 6) {
        MultiplyTiles<6>(tiles, operand, apart, present, sums);
      } else {
        MultiplyTiles<10>(tiles, operand, apart, present, sums);
      }
      tiles += most * kWarp, operand += most * apart;
    }
    if (count >= 5) {
      MultiplyTiles<5>(tiles, operand, apart, present, sums);
      tiles += 5 * kWarp, operand += 5 * apart, count -= 5;
    }
#pragma unroll 1
    for (; count > 0; --count) {
      MultiplyTiles<1>(tiles, operand, apart, present, sums);
      tiles += kWarp, operand += apart;
    }
  }
  template <int kTiles>
  __device__ __forceinline__ void MultiplyTiles(const uint4* tiles, const uint2* operand, int apart,
                                                bool present, float (&sums)[4]) {
    uint2 right[kTiles];
    uint4 left[kTiles];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      left[i] = tiles[i * kWarp];
      right[i] = {};
      if (present) right[i] = operand[i * apart];
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) MultiplyAdd(left[i], right[i], sums);
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
  int head_place_ = 0;
  uint32_t head_turn_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_MULTIPLY_CUH_
