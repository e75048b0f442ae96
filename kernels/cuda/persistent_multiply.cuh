// The multiplying warps of a pass. Warp e multiplies eighth e of the columns of every panel of its
// block (packing.cuh), with operands that it makes or fetches itself.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_MULTIPLY_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_MULTIPLY_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_block.cuh"

namespace mambad::kernels::cuda {

class PassMultiplier {
 public:
  __device__ __forceinline__ explicit PassMultiplier(const PassBlock& block)
      : block_(block),
        program_(block.program),
        warp_(threadIdx.x / kWarp),
        lane_(threadIdx.x % kWarp),
        ring_(program_, block.Steps(),
              block.At<unsigned char>(block.place.ring) + warp_ * program_.ring_pieces * kRingPiece,
              block.At<uint64_t>(block.place.arrivals) + warp_ * program_.ring_pieces) {}

  __device__ __forceinline__ void Walk() {
    for (int i = 0; i < program_.step_count; ++i) {
      const PassStep& step = block_.Steps()[i];
      PassUnits units(step);
      if (!units.There(step)) continue;
      const bool scans = step.action == PassAction::kScan;
      if (scans) ++selections_;
      bool ready = false;
      for (; units.There(step); units.Advance(step)) {
        const bool mine = units.OfWarp(step, warp_);
        if (!ready && (mine || scans)) {
          PrepareOperands(step);
          ready = true;
        }
        if (mine) Unit(step, units);
      }
      if (scans) PassBy(kDeltaThere, kBothSides);
    }
  }

 private:
  // Operands of this warp's columns, when all that they follow from is there. Weights go on coming
  // meanwhile.
  __device__ __forceinline__ void PrepareOperands(const PassStep& step) {
    const bool scan = step.action == PassAction::kScan;
    const uint32_t* const flag = scan ? block_.Selections() : block_.Reached();
    const uint32_t value = scan ? selections_ : step.wait;
    do {
      ring_.Fill();
    } while (!__all_sync(kAllLanes, LookAtFlag(flag) >= value));
    there_ = step.action == PassAction::kHead ? block_.logits : block_.there;
    if (step.action == PassAction::kChannels || step.action == PassAction::kHead) {
      MakeOperands(step);
    } else if (step.action == PassAction::kSelect) {
      FetchOperands(step, program_.x);
    } else if (step.action == PassAction::kOutput) {
      FetchOperands(step, program_.gated);
    }
    __syncwarp();
  }
  __device__ __forceinline__ uint2* Operands(const PassStep& step) const {
    switch (step.action) {
      case PassAction::kScan:
        return block_.At<uint2>(block_.place.low);
      case PassAction::kSelect:
      case PassAction::kOutput: {
        const int steps = (program_.inner_steps + kEighths - 1) / kEighths;
        return block_.At<uint2>(block_.place.inner) + warp_ * steps * program_.rows * 4;
      }
      default:
        return block_.At<uint2>(block_.place.residual) + PassBegin(step, warp_) * program_.rows * 4;
    }
  }

  // Of rows of the residual, times the norm's weight, rounded.
  __device__ __forceinline__ void MakeOperands(const PassStep& step) {
    const int begin = PassBegin(step, warp_), rows = program_.rows;
    const int places = (PassEnd(step, warp_) - begin) * rows;
    const int columns = static_cast<int>(program_.residual.columns);
    const bool whole = PassEnd(step, warp_) * kTileColumns <= columns;
    const float* const weight = step.norm_weight;
    const bool whole_weights = whole && reinterpret_cast<uintptr_t>(weight) % 8 == 0;
    uint2* const to = Operands(step);
#pragma unroll 3
    for (int i = lane_ / 4; i < places; i += kWarp / 4) {
      const int token = i % rows, column = (begin + i / rows) * kTileColumns + lane_ % 4 * 2;
      TokenPairs u = {};
      if (token < there_) {
        u = FreshPairs(block_.ResidualRow(step, token), column, columns, whole);
        if (weight != nullptr) u = Times(u, FreshPairs(weight, column, columns, whole_weights));
      }
      to[i * 4 + lane_ % 4] = RoundedOperand(u);
    }
  }
  // Of what was rounded by who wrote it.
  __device__ __forceinline__ void FetchOperands(const PassStep& step, const uint2* from) {
    const int begin = PassBegin(step, warp_), rows = program_.rows;
    const int count = (PassEnd(step, warp_) - begin) * rows * 2;  // of 16 bytes
    const uint4* const source = reinterpret_cast<const uint4*>(from + begin * rows * 4);
    uint4* const to = reinterpret_cast<uint4*>(Operands(step));
#pragma unroll 3
    for (int i = lane_; i < count; i += kWarp) to[i] = __ldcg(source + i);
  }

  // A unit of this warp, and where its sums go.
  __device__ __forceinline__ void Unit(const PassStep& step, const PassUnits& units) {
    float sums[4] = {}, total[4] = {};
    Multiply(step, sums, total);
    if (step.split == PassSplit::kPanel) {
      LeaveSums(sums);
    } else if (step.split == PassSplit::kEighth) {
      SendPart(step, units, sums);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        block_.Delta(units.round, lane_ % 4 * 2 + e % 2)[lane_ / 4 + e / 2 * 8] = total[e];
      }
    }
  }

  // sums: of this warp's steps, a chain; where they are all of a panel's, each eighth is one, and
  // total is their sum.
  __device__ __forceinline__ void Multiply(const PassStep& step, float (&sums)[4],
                                           float (&total)[4]) {
    const int steps = PassEnd(step, warp_) - PassBegin(step, warp_), apart = program_.rows * 4;
    const bool present = lane_ / 4 < there_, all = step.split == PassSplit::kWarp;
    const uint2* operand = Operands(step) + lane_;  // token lane / 4, pair lane % 4
    int eighth = 0, border = all ? EighthBegin(steps, 1) : steps + 1;
    const auto end_eighths = [&](int at) {  // those that end before this step
      while (eighth < kEighths && border <= at) {
#pragma unroll
        for (int e = 0; e < 4; ++e) total[e] += sums[e], sums[e] = 0;
        ++eighth;
        border = EighthBegin(steps, eighth + 1);
      }
    };
#pragma unroll 1
    for (int from = 0; from < steps; from += kRingSteps) {
      const int count = steps - from;
      uint2 right[kRingSteps];
      uint4 left[kRingSteps];
#pragma unroll
      for (int i = 0; i < kRingSteps; ++i) {
        right[i] = {};
        if (present && i < count) right[i] = operand[i * apart];
      }
      operand += kRingSteps * apart;
      const uint4* const tiles = ring_.Take();
#pragma unroll
      for (int i = 0; i < kRingSteps; ++i) {
        left[i] = {};
        if (i < count) left[i] = tiles[i * kWarp];
      }
#pragma unroll
      for (int i = 0; i < kRingSteps; ++i) {
        if (i < count) {
          if (all) end_eighths(from + i);
          MultiplyAdd(left[i], right[i], sums);
        }
      }
      ring_.GiveBack();
      ring_.Fill();
    }
    if (all) end_eighths(steps);
  }

  // Where the eighths of a panel meet.
  __device__ __forceinline__ void LeaveSums(const float (&sums)[4]) {
    const int which = panels_ % 2;
    // The finishers take the panel before the last one's sums away.
    if (panels_ >= 2) MeetAt(kSumsTaken + which, kBothSides);
    float* const to = block_.Sums(which) + warp_ * kSumsEighth;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      to[(lane_ % 4 * 2 + e % 2) * kSumsRow + lane_ / 4 + e / 2 * 8] = sums[e];
    }
    PassBy(kSumsThere + which, kBothSides);
    ++panels_;
  }

  // An eighth by itself; who reads them adds them up.
  __device__ __forceinline__ void SendPart(const PassStep& step, const PassUnits& units,
                                           const float (&sums)[4]) {
    const int stride = program_.select_stride;
    float* const to = block_.Parts(step, warp_) + units.Panel(step) * kTileRows;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int token = lane_ % 4 * 2 + e % 2;
      if (token < there_) to[token * stride + lane_ / 4 + e / 2 * 8] = sums[e];
    }
    __syncwarp();
    if (lane_ == 0) block_.Signal(step);
  }

  const PassBlock& block_;
  const PassProgram& program_;
  const int warp_, lane_;
  WeightRing ring_;
  int there_ = 0;  // rows of the operands at hand that there are
  int panels_ = 0;
  uint32_t selections_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_MULTIPLY_CUH_
