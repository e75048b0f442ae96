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
      if (scans) PassBy(kDeltaThere, kPassThreads);
    }
  }

 private:
  // Operands of this warp's columns, when all that they follow from is there.
  __device__ __forceinline__ void PrepareOperands(const PassStep& step) {
    there_ = block_.Rows(step);
    const bool fetched = step.action == PassAction::kSelect || step.action == PassAction::kOutput;
    AwaitFirst(step, fetched);
    if (step.action == PassAction::kScan) return;
    if (fetched) {
      FetchOperands(step);
    } else {
      MakeOperands(step);
    }
    __syncwarp();
  }
  __device__ __forceinline__ const uint4* Fetched(const PassStep& step) const {
    const uint2* const from =
        step.action == PassAction::kSelect ? block_.X(step.layer) : block_.Gated(step.layer);
    return reinterpret_cast<const uint4*>(from + PassBegin(step, warp_) * there_ * 4);
  }
  // Looks at one place, the same for all lanes, until there is something: many who look at all
  // places slow down who writes. Weights go on coming meanwhile.
  __device__ __forceinline__ void AwaitFirst(const PassStep& step, bool fetched) {
    const int begin = PassBegin(step, warp_), end = PassEnd(step, warp_);
    const uint32_t* flag = nullptr;  // in shared memory
    const float* place = nullptr;
    if (step.action == PassAction::kScan) {
      flag = block_.Selections();
    } else if (begin < end && there_ > 0) {
      const int64_t last = int64_t{end - begin} * there_ * 8 - 1;
      if (fetched) place = reinterpret_cast<const float*>(Fetched(step)) + last;
      if (!fetched) {
        const int row = block_.RowOf(step, there_ - 1);
        place = block_.ResidualBefore(step.layer, row) + end * kTileColumns - 1;
      }
    }
    while (true) {
      ring_.Fill();
      bool came = true;
      if (flag != nullptr) came = LookAtFlag(flag) >= selections_;
      if (place != nullptr) came = !Missing(LoadFresh(place));
      if (__all_sync(kAllLanes, came)) return;
    }
  }
  __device__ __forceinline__ uint2* Operands(const PassStep& step) const {
    switch (step.action) {
      case PassAction::kScan:
        return block_.At<uint2>(block_.place.low);
      case PassAction::kSelect:
      case PassAction::kOutput: {
        const int steps = (program_.inner_steps + kEighths - 1) / kEighths;
        return block_.At<uint2>(block_.place.inner) + warp_ * steps * there_ * 4;
      }
      default:
        return block_.At<uint2>(block_.place.residual) + PassBegin(step, warp_) * there_ * 4;
    }
  }

  // Of rows of the residual, times the norm's weight, rounded. A token takes four lanes, as many
  // tokens as a power of two a warp, and the other lanes the next steps.
  __device__ __forceinline__ void MakeOperands(const PassStep& step) {
    constexpr int kAtOnce = 5;
    const int begin = PassBegin(step, warp_), steps = PassEnd(step, warp_) - begin;
    const int columns = static_cast<int>(program_.residual.columns);
    const int shift = there_ <= 1 ? 0 : 32 - __clz(there_ - 1);  // of the power
    const int token = lane_ / 4 & ((1 << shift) - 1), apart = (kWarp / 4) >> shift;
    if (token >= there_) return;
    const float* const row = block_.ResidualBefore(step.layer, block_.RowOf(step, token));
    const float* const weight = step.norm_weight;
    uint2* const to = Operands(step) + token * 4 + lane_ % 4;
#pragma unroll 1
    for (int from = lane_ / 4 >> shift; from < steps; from += kAtOnce * apart) {
      TokenPairs u[kAtOnce];
      bool missing;
      do {
        missing = false;
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          const int at = begin + min(from + k * apart, steps - 1);  // the last one again
          u[k] = FreshPairs(row, at * kTileColumns + lane_ % 4 * 2);
          missing = missing || Missing(u[k]);
        }
      } while (missing);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int at = from + k * apart;
        if (at >= steps) break;
        const int column = (begin + at) * kTileColumns + lane_ % 4 * 2;
        const auto times = [&](float& number, int c) {
          if (weight != nullptr) number *= c < columns ? __ldg(weight + c) : 0.0f;
        };
        times(u[k].low.x, column), times(u[k].low.y, column + 1);
        times(u[k].high.x, column + 8), times(u[k].high.y, column + 9);
        to[at * there_ * 4] = RoundedOperand(u[k]);
      }
    }
  }
  // Of what was rounded by who wrote it.
  __device__ __forceinline__ void FetchOperands(const PassStep& step) {
    constexpr int kAtOnce = 5;
    const int count = (PassEnd(step, warp_) - PassBegin(step, warp_)) * there_ * 2;
    const uint4* const from = Fetched(step);
    uint4* const to = reinterpret_cast<uint4*>(Operands(step));
#pragma unroll 1
    for (int at = lane_; at < count; at += kAtOnce * kWarp) {
      uint4 words[kAtOnce];
      bool missing;
      do {
        missing = false;
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          words[k] = LoadFresh(from + min(at + k * kWarp, count - 1));
          missing = missing || Missing(words[k]);
        }
      } while (missing);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) to[min(at + k * kWarp, count - 1)] = words[k];
    }
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
    const int steps = PassEnd(step, warp_) - PassBegin(step, warp_), apart = there_ * 4;
    const bool all = step.split == PassSplit::kWarp;
    // Token lane / 4, pair lane % 4.
    const uint2* operand = Operands(step) + lane_;
#pragma unroll 1
    for (int from = 0; from < steps; from += kRingSteps) {
      const int count = min(steps - from, kRingSteps);
      const uint4* const tiles = ring_.Take();
      if (all) {
        MultiplyEighths(steps, from, count, tiles, operand, sums, total);
      } else {
        MultiplySome(count, tiles, operand, apart, sums);
      }
      operand += kRingSteps * apart;
      ring_.GiveBack();
      ring_.Fill();
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) total[e] += sums[e];
  }
  // `count` tiles without a branch in between: a warp's products are a chain, and what stands
  // between two of them is waited for.
  __device__ __forceinline__ void MultiplySome(int count, const uint4* tiles, const uint2* operand,
                                               int apart, float (&sums)[4]) {
    static_assert(kRingSteps == 8);
    switch (count) {
      case 8:
        return MultiplyTiles<8>(tiles, operand, apart, sums);
      case 7:
        return MultiplyTiles<7>(tiles, operand, apart, sums);
      case 6:
        return MultiplyTiles<6>(tiles, operand, apart, sums);
      case 5:
        return MultiplyTiles<5>(tiles, operand, apart, sums);
      case 4:
        return MultiplyTiles<4>(tiles, operand, apart, sums);
      case 3:
        return MultiplyTiles<3>(tiles, operand, apart, sums);
      case 2:
        return MultiplyTiles<2>(tiles, operand, apart, sums);
      default:
        return MultiplyTiles<1>(tiles, operand, apart, sums);
    }
  }
  template <int kTiles>
  __device__ __forceinline__ void MultiplyTiles(const uint4* tiles, const uint2* operand, int apart,
                                                float (&sums)[4]) {
    const bool present = lane_ / 4 < there_;
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
  // Tiles [from, from + count) of a whole panel's `steps`.
  __device__ __forceinline__ void MultiplyEighths(int steps, int from, int count,
                                                  const uint4* tiles, const uint2* operand,
                                                  float (&sums)[4], float (&total)[4]) {
    const bool present = lane_ / 4 < there_;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      // The eighth of tile t begins there if the one of tile t - 1 is another.
      const int at = from + i, eighth = ((at + 1) * kEighths - 1) / steps;
      if (PassEighth(steps, eighth) == at) {
#pragma unroll
        for (int e = 0; e < 4; ++e) total[e] += sums[e], sums[e] = 0;
      }
      uint2 right = {};
      if (present) right = operand[i * there_ * 4];
      MultiplyAdd(tiles[i * kWarp], right, sums);
    }
  }

  // Where the eighths of a panel meet.
  __device__ __forceinline__ void LeaveSums(const float (&sums)[4]) {
    const int which = panels_ % 2;
    // The finishers take the panel before the last one's sums away.
    if (panels_ >= 2) MeetAt(kSumsTaken + which, kPassThreads);
    float* const to = block_.Sums(which) + warp_ * kSumsEighth;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      to[(lane_ % 4 * 2 + e % 2) * kSumsRow + lane_ / 4 + e / 2 * 8] = sums[e];
    }
    PassBy(kSumsThere + which, kPassThreads);
    ++panels_;
  }

  // An eighth by itself; who reads them adds them up.
  __device__ __forceinline__ void SendPart(const PassStep& step, const PassUnits& units,
                                           const float (&sums)[4]) {
    const int stride = program_.select_stride;
    float* const to = block_.Parts(step.layer, warp_) + units.Panel(step) * kTileRows;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int token = lane_ % 4 * 2 + e % 2;
      if (token < there_) {
        block_.Send(to + token * stride + lane_ / 4 + e / 2 * 8, __float_as_uint(sums[e]));
      }
    }
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
