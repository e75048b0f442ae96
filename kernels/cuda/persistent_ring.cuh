// A multiplying warp's weights on their way: a ring of pieces in shared memory, filled in the order
// in which the warp will multiply them, across products, layers and exchanges, for weights wait for
// nobody. A lane copies what it will read itself: 16 bytes of each tile, its part of the left
// operand.
//
// Everything is inlined, and what changes stays in registers: kept in local memory, a pass took
// twice as long.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_

#include <cstdint>

#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/packing.cuh"
#include "kernels/cuda/persistent_program.cuh"
#include "kernels/cuda/persistent_sync.cuh"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {

// The units of a product that are a block's, one after the other.
struct PassUnits {
  int unit = 0, round = 0;

  __device__ __forceinline__ explicit PassUnits(const PassStep& step) : round(step.first_round) {
    int first = static_cast<int>(blockIdx.x) - step.offset;
    if (first < 0) first += static_cast<int>(gridDim.x);
    unit = first < step.span ? first + round * step.span : step.units;
  }
  __device__ __forceinline__ bool There(const PassStep& step) const {
    return unit < step.units && round < step.end_round;
  }
  __device__ __forceinline__ void Advance(const PassStep& step) { ++round, unit += step.span; }
  __device__ __forceinline__ int Panel(const PassStep& step) const {
    return step.split == PassSplit::kEighth ? static_cast<unsigned>(unit) / kEighths : unit;
  }
  __device__ __forceinline__ bool OfWarp(const PassStep& step, int warp) const {
    const unsigned of = step.split == PassSplit::kEighth ? unit : round;
    return step.split == PassSplit::kPanel || static_cast<int>(of % kEighths) == warp;
  }
};
// EighthBegin in a few instructions, of as many steps as a PassStep can have.
__device__ __forceinline__ int PassEighth(int steps, int eighth) {
  return static_cast<int>(static_cast<unsigned>(steps) * static_cast<unsigned>(eighth) / kEighths);
}
// Steps [begin, end) of a panel that are warp `warp`'s.
__device__ __forceinline__ int PassBegin(const PassStep& step, int warp) {
  return step.split == PassSplit::kWarp ? 0 : PassEighth(step.steps, warp);
}
__device__ __forceinline__ int PassEnd(const PassStep& step, int warp) {
  return step.split == PassSplit::kWarp ? step.steps : PassEighth(step.steps, warp + 1);
}

class WeightRing {
 public:
  // `steps`: of the program; `pieces`, `arrivals`: of this warp; all in shared memory. All lanes of
  // the warp call everything.
  __device__ __forceinline__ WeightRing(const PassProgram& program, const PassStep* steps,
                                        unsigned char* pieces, uint64_t* arrivals)
      : pieces_(reinterpret_cast<uint4*>(pieces) + threadIdx.x % kWarp),
        arrivals_(arrivals),
        count_(program.ring_pieces),
        most_in_flight_(program.in_flight),
        warp_(threadIdx.x / kWarp),
        step_(steps),
        end_(steps + program.step_count),
        units_(*steps) {}

  // Asks for pieces while there is room for them, and few enough are on their way.
  __device__ __forceinline__ void Fill() {
    while (landed_ + in_flight_ < count_ && MayAsk() && (left_ > 0 || FindStretch())) AskForPiece();
  }

  // The tiles of the next piece, which has come.
  __device__ __forceinline__ const uint4* Take() {
    while (landed_ == 0) {
      if (NextHasCome()) Landed();
    }
    return pieces_ + use_ * (kRingSteps * kWarp);
  }
  // They are in registers.
  __device__ __forceinline__ void GiveBack() {
    --landed_;
    if (++use_ == count_) use_ = 0;
  }

 private:
  // The same for all lanes.
  __device__ __forceinline__ bool NextHasCome() {
    return __all_sync(0xffffffffu, TurnedOver(arrivals_ + land_, land_parity_)) != 0;
  }
  __device__ __forceinline__ void Landed() {
    --in_flight_, ++landed_;
    if (++land_ == count_) land_ = 0, land_parity_ ^= 1;
  }
  __device__ __forceinline__ bool MayAsk() {
    if (in_flight_ < most_in_flight_) return true;
    if (!NextHasCome()) return false;
    Landed();
    return true;
  }

  __device__ __forceinline__ void AskForPiece() {
    uint4* const to = pieces_ + ask_ * (kRingSteps * kWarp);
#pragma unroll
    for (int i = 0; i < kRingSteps; ++i) {
      if (i < left_) CopyAsyncOnce(to + i * kWarp, from_ + i * kWarp, policy_);
    }
    ArriveWithCopies(arrivals_ + ask_);
    ++in_flight_;
    if (++ask_ == count_) ask_ = 0;
    from_ += kRingSteps * kWarp;
    left_ -= kRingSteps;
  }

  // From units_ on, the next one with tiles for this warp. False: there is none.
  __device__ __forceinline__ bool FindStretch() {
    while (step_ != end_) {
      const PassStep& step = *step_;
      if (!units_.There(step)) {
        if (++step_ != end_) units_ = PassUnits(*step_);
        continue;
      }
      const int begin = PassBegin(step, warp_);
      left_ = units_.OfWarp(step, warp_) ? PassEnd(step, warp_) - begin : 0;
      from_ = step.weights + (int64_t{units_.Panel(step)} * step.steps + begin) * kWarp +
              threadIdx.x % kWarp;
      units_.Advance(step);
      if (left_ > 0) return true;
    }
    return false;
  }

  uint4* const pieces_;  // this lane's place in each tile
  uint64_t* const arrivals_;
  const int count_, most_in_flight_, warp_;
  const uint64_t policy_ = ReadOnce();

  int ask_ = 0, land_ = 0, use_ = 0;  // pieces that are next
  uint32_t land_parity_ = 0;
  int in_flight_ = 0, landed_ = 0;

  // What is asked for next.
  const PassStep* step_;
  const PassStep* const end_;
  PassUnits units_;
  const uint4* from_ = nullptr;
  int left_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_
