// The multiplying warps of a pass. Warp e multiplies eighth e of the columns of every panel of its
// block (packing.cuh), with operands that it makes or fetches itself.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_MULTIPLY_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_MULTIPLY_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_block.cuh"

namespace mambad::kernels::cuda {

class PassMultiplier {
 public:
  __device__ explicit PassMultiplier(const PassBlock& block)
      : block_(block),
        program_(block.program),
        warp_(threadIdx.x / kWarp),
        lane_(threadIdx.x % kWarp),
        ring_(program_,
              block.At<unsigned char>(block.place.ring) + warp_ * program_.ring_pieces * kRingPiece,
              block.At<uint64_t>(block.place.arrivals) + warp_ * program_.ring_pieces) {
    ring_.Fill();
  }

  __device__ void Walk() {
    for (int i = 0; i < program_.step_count; ++i) {
      const PassStep step = program_.steps[i];
      const PassUnits units(step, blockIdx.x, gridDim.x);
      if (!units.There(step)) continue;
      switch (step.action) {
        case PassAction::kChannels:
          MakeOperands(step, program_.layers[step.layer].norm.weight);
          Panels(step, units, block_.there);
          break;
        case PassAction::kGates:
          Panels(step, units, block_.there);
          break;
        case PassAction::kHead:
          MakeOperands(step, program_.head.norm.weight);
          Panels(step, units, block_.logits);
          break;
        case PassAction::kSelect:
          Select(step, units);
          break;
        case PassAction::kScan:
          Deltas(step, units);
          break;
        case PassAction::kOutput:
          FetchOperands(step, program_.gated);
          Panels(step, units, block_.there);
          break;
      }
    }
  }

 private:
  // Until `flag` has come so far. Weights go on coming meanwhile.
  __device__ void Await(const uint32_t* flag, uint32_t value) {
    while (!__all_sync(kAllLanes, LookAtFlag(flag) >= value)) ring_.Fill();
  }
  // Of this warp's eighth.
  __device__ uint2* ResidualOperands(const PassStep& step) const {
    return block_.At<uint2>(block_.place.residual) + PassBegin(step, warp_) * program_.rows * 4;
  }
  __device__ uint2* InnerOperands() const {
    const int steps = (program_.inner_steps + kEighths - 1) / kEighths;
    return block_.At<uint2>(block_.place.inner) + warp_ * steps * program_.rows * 4;
  }

  // Right operands of this warp's eighth of the residual's rows, times the norm's weight, rounded.
  __device__ void MakeOperands(const PassStep& step, const float* norm_weight) {
    const int begin = PassBegin(step, warp_), rows = program_.rows;
    const int places = (PassEnd(step, warp_) - begin) * rows;
    const int columns = static_cast<int>(program_.residual.columns);
    const bool logits = step.action == PassAction::kHead;
    const int there = logits ? block_.logits : block_.there;
    const bool whole = PassEnd(step, warp_) * kTileColumns <= columns;
    const bool whole_weights = whole && reinterpret_cast<uintptr_t>(norm_weight) % 8 == 0;
    uint2* const to = ResidualOperands(step);
    Await(block_.Reached(), step.wait);
#pragma unroll 4
    for (int i = lane_ / 4; i < places; i += kWarp / 4) {
      const int token = i % rows, column = (begin + i / rows) * kTileColumns + lane_ % 4 * 2;
      TokenPairs u = {};
      if (token < there) {
        const int row = logits ? block_.RowOfLogits(token) : token;
        u = FreshPairs(program_.residual.data + row * program_.residual.stride, column, columns,
                       whole);
        if (norm_weight != nullptr) {
          u = Times(u, FreshPairs(norm_weight, column, columns, whole_weights));
        }
      }
      to[i * 4 + lane_ % 4] = RoundedOperand(u);
    }
    __syncwarp();
  }
  // The same of what was rounded by who wrote it.
  __device__ void FetchOperands(const PassStep& step, const uint2* from) {
    const int begin = PassBegin(step, warp_), rows = program_.rows;
    const int count = (PassEnd(step, warp_) - begin) * rows * 2;  // of 16 bytes
    const uint4* const source = reinterpret_cast<const uint4*>(from + begin * rows * 4);
    uint4* const to = reinterpret_cast<uint4*>(InnerOperands());
    Await(block_.Reached(), step.wait);
#pragma unroll 5
    for (int i = lane_; i < count; i += kWarp) to[i] = __ldcg(source + i);
    __syncwarp();
  }

  // Panel by panel, each left where its eighths meet.
  __device__ void Panels(const PassStep& step, PassUnits units, int there) {
    const int count = PassEnd(step, warp_) - PassBegin(step, warp_);
    const uint2* const operands =
        step.action == PassAction::kOutput ? InnerOperands() : ResidualOperands(step);
    for (; units.There(step); units.Advance(gridDim.x)) {
      float sums[4] = {};
      ring_.Multiply(count, operands, program_.rows, there, sums);
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
  }

  // Eighths of panels by themselves; who reads them adds them up.
  __device__ void Select(const PassStep& step, PassUnits units) {
    const int count = PassEnd(step, warp_) - PassBegin(step, warp_),
              stride = program_.select_stride;
    bool fetched = false;
    for (; units.There(step); units.Advance(gridDim.x)) {
      if (!units.OfWarp(step, warp_)) continue;
      if (!fetched) FetchOperands(step, program_.x);
      fetched = true;
      float sums[4] = {};
      ring_.Multiply(count, InnerOperands(), program_.rows, block_.there, sums);
      float* const to =
          program_.parts + int64_t{warp_} * program_.rows * stride + units.Panel(step) * kTileRows;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int token = lane_ % 4 * 2 + e % 2;
        if (token < block_.there) to[token * stride + lane_ / 4 + e / 2 * 8] = sums[e];
      }
      __syncwarp();
      if (lane_ == 0) block_.Signal(step);
    }
  }

  // delta of the block's channels, a warp a panel, eighths one after the other.
  __device__ void Deltas(const PassStep& step, PassUnits units) {
    Await(block_.Selections(), ++selections_);
    for (; units.There(step); units.Advance(gridDim.x)) {
      if (!units.OfWarp(step, warp_)) continue;
      float total[4] = {}, sums[4] = {};
      int eighth = 0;
      const auto end_eighths = [&](int at) {  // those that end before this step
        for (; eighth < kEighths && EighthBegin(step.steps, eighth + 1) <= at; ++eighth) {
#pragma unroll
          for (int e = 0; e < 4; ++e) total[e] += sums[e], sums[e] = 0;
        }
      };
      ring_.MultiplyEach(step.steps, block_.At<uint2>(block_.place.low), program_.rows,
                         block_.there, sums, end_eighths);
      end_eighths(step.steps);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        block_.Delta(units.round, lane_ % 4 * 2 + e % 2)[lane_ / 4 + e / 2 * 8] = total[e];
      }
    }
    PassBy(kDeltaThere, kBothSides);
  }

  const PassBlock& block_;
  const PassProgram& program_;
  const int warp_, lane_;
  WeightRing ring_;
  int panels_ = 0;
  uint32_t selections_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_MULTIPLY_CUH_
